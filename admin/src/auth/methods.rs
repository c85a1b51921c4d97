//! Who may call what: the one table of methods.

use std::{collections::HashMap, sync::LazyLock};

use crate::tokens::Role;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads: every role.
    Read,
    /// Reads one tenant's usage, credits or bills: every role, and a token that is narrowed to that tenant.
    ReadTenant,
    /// Changes something.
    Write,
    /// Changes credits or bills: `billing` too, and a token that is narrowed to the tenant concerned.
    WriteTenant,
    /// Makes or revokes tokens: those of roles that the caller's own may give, [`Role::gives`].
    Tokens,
}

impl Access {
    /// Whether a token of this role may call it; `narrowed` to one tenant or not.
    #[must_use]
    pub fn allows(self, role: Role, narrowed: bool) -> bool {
        match self {
            Self::ReadTenant => true,
            Self::WriteTenant => matches!(role, Role::Admin | Role::Operator | Role::Billing),
            _ if narrowed => false,
            Self::Read => true,
            Self::Write | Self::Tokens => matches!(role, Role::Admin | Role::Operator),
        }
    }
}

/// Every method of `tollgate.admin.v1`, in the order of the proto file. A test holds it complete, and holds the names to
/// the contract: a method that only reads begins with one of [`READING`].
pub const METHODS: &[(&str, Access)] = &[
    ("/tollgate.admin.v1.ConfigService/Apply", Access::Write),
    ("/tollgate.admin.v1.ConfigService/Delete", Access::Write),
    ("/tollgate.admin.v1.ConfigService/Get", Access::Read),
    ("/tollgate.admin.v1.ConfigService/Watch", Access::Read),
    ("/tollgate.admin.v1.ConfigService/Diff", Access::Read),
    ("/tollgate.admin.v1.ConfigService/Export", Access::Read),
    ("/tollgate.admin.v1.ConfigService/StatusServed", Access::Read),
    ("/tollgate.admin.v1.ClusterService/Status", Access::Read),
    ("/tollgate.admin.v1.ClusterService/Add", Access::Write),
    ("/tollgate.admin.v1.ClusterService/Promote", Access::Write),
    ("/tollgate.admin.v1.ClusterService/Remove", Access::Write),
    ("/tollgate.admin.v1.ClusterService/TransferLeader", Access::Write),
    ("/tollgate.admin.v1.ClusterService/CreateToken", Access::Tokens),
    ("/tollgate.admin.v1.ClusterService/ListTokens", Access::Read),
    ("/tollgate.admin.v1.ClusterService/RevokeToken", Access::Tokens),
    ("/tollgate.admin.v1.ClusterService/Backup", Access::Write),
    ("/tollgate.admin.v1.ClusterService/Restore", Access::Write),
    ("/tollgate.admin.v1.ClusterService/DrainZone", Access::Write),
    ("/tollgate.admin.v1.ClusterService/UndrainZone", Access::Write),
    ("/tollgate.admin.v1.ClusterService/StatusZones", Access::Read),
    ("/tollgate.admin.v1.LimitService/Show", Access::Read),
    ("/tollgate.admin.v1.LimitService/Explain", Access::Read),
    ("/tollgate.admin.v1.LimitService/Reset", Access::Write),
    ("/tollgate.admin.v1.CreditService/Grant", Access::WriteTenant),
    ("/tollgate.admin.v1.CreditService/Show", Access::ReadTenant),
    ("/tollgate.admin.v1.CreditService/History", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/Export", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/Reconcile", Access::Read),
    ("/tollgate.admin.v1.BillingService/VerifyLedger", Access::Read),
    ("/tollgate.admin.v1.BillingService/ShowLedger", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/ListAlerts", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/ListPeriods", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/ExportStatement", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/VerifyPeriod", Access::ReadTenant),
    ("/tollgate.admin.v1.BillingService/GetStatementKey", Access::ReadTenant),
    ("/tollgate.admin.v1.UsageService/Query", Access::ReadTenant),
];

/// What the names of reading methods begin with, by contract.
pub const READING: &[&str] = &[
    "Get",
    "List",
    "Watch",
    "Export",
    "Show",
    "Status",
    "Query",
    "Diff",
    "History",
    "Check",
    "Verify",
    "Reconcile",
    "Explain",
];

/// Services that answer without a token.
const OPEN: &[&str] =
    &["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// What the table says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// No token needed.
    Open,
    /// A token that is allowed this.
    Token(Access),
    /// There is no such method.
    Unknown,
}

/// The rule for a request's path.
pub(crate) fn rule(path: &str) -> Rule {
    static BY_PATH: LazyLock<HashMap<&str, Access>> = LazyLock::new(|| METHODS.iter().copied().collect());
    if OPEN.iter().any(|service| path.starts_with(service)) {
        return Rule::Open;
    }
    BY_PATH.get(path).map_or(Rule::Unknown, |&access| Rule::Token(access))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn declared() -> Vec<String> {
        let set = FileDescriptorSet::decode(tollgate_proto::FILE_DESCRIPTOR_SET).unwrap();
        let files = set.file.iter().filter(|file| file.package() == "tollgate.admin.v1");
        files
            .flat_map(|file| &file.service)
            .flat_map(|service| service.method.iter().map(move |method| (service, method)))
            .map(|(service, method)| format!("/tollgate.admin.v1.{}/{}", service.name(), method.name()))
            .collect()
    }

    #[test]
    fn the_table_has_every_method_once_and_no_other() {
        assert_eq!(METHODS.iter().map(|(path, _)| *path).collect::<Vec<_>>(), declared());
    }

    #[test]
    fn a_method_reads_exactly_when_its_name_says_so() {
        for (path, access) in METHODS {
            let name = path.rsplit('/').next().unwrap();
            let reading = READING.iter().any(|prefix| name.starts_with(prefix));
            assert_eq!(reading, matches!(access, Access::Read | Access::ReadTenant), "{path}");
        }
    }

    #[test]
    fn roles_get_what_the_contract_gives_them() {
        for role in Role::ALL {
            assert!(Access::Read.allows(role, false));
            assert!(Access::ReadTenant.allows(role, true));
            assert!(!Access::Read.allows(role, true), "a narrowed token reads no configuration");
            assert_eq!(Access::Write.allows(role, false), matches!(role, Role::Admin | Role::Operator));
            assert_eq!(Access::Tokens.allows(role, false), matches!(role, Role::Admin | Role::Operator));
            assert_eq!(Access::WriteTenant.allows(role, false), role != Role::Viewer);
            assert_eq!(Access::WriteTenant.allows(role, true), role != Role::Viewer);
            assert!(!Access::Write.allows(role, true) && !Access::Tokens.allows(role, true));
        }
    }

    #[test]
    fn a_path_that_only_looks_like_a_method_is_unknown() {
        for path in [
            "/",
            "/tollgate.admin.v1.ConfigService/",
            "/tollgate.admin.v1.ConfigService/Get/",
            "/grpc.health.v1.HealthX/Check",
        ] {
            assert_eq!(rule(path), Rule::Unknown, "{path}");
        }
        assert_eq!(rule("/grpc.health.v1.Health/Check"), Rule::Open);
    }
}

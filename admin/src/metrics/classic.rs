//! Classic Prometheus text (0.0.4) from OpenMetrics text.
//!
//! The two differ in what metadata calls a counter (`x_total` here, `x` there), in types that the old format has not,
//! and in units, exemplars and the end mark, which it has not either.

use std::fmt::Write;

/// What a family is called and is, in the classic format.
struct Family<'a> {
    suffix: &'static str,
    kind: &'a str,
}

fn family(open_metrics: &str) -> Family<'_> {
    match open_metrics {
        "counter" => Family { suffix: "_total", kind: "counter" },
        "info" => Family { suffix: "_info", kind: "gauge" },
        "unknown" => Family { suffix: "", kind: "untyped" },
        "stateset" | "gaugehistogram" => Family { suffix: "", kind: "untyped" },
        kind => Family { suffix: "", kind },
    }
}

/// Rewrites a whole exposition as `prometheus-client` writes it: HELP, TYPE and perhaps UNIT, then the samples.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            write_metadata(&mut out, rest, help.take());
        } else if !line.starts_with('#') {
            out.push_str(without_exemplar(line));
            out.push('\n');
        }
    }
    out
}

fn write_metadata(out: &mut String, type_line: &str, help: Option<(&str, &str)>) {
    let Some((name, kind)) = type_line.split_once(' ') else { return };
    let Family { suffix, kind } = family(kind);
    if let Some((_, help)) = help.filter(|(of, _)| *of == name) {
        writeln!(out, "# HELP {name}{suffix} {}", help.replace("\\\"", "\"")).expect("writing to a string can't fail");
    }
    writeln!(out, "# TYPE {name}{suffix} {kind}").expect("writing to a string can't fail");
}

/// A sample's line without ` # {…} value time`. A label's value may hold the same characters, so only what follows the
/// labels counts.
fn without_exemplar(line: &str) -> &str {
    let labels = labels_end(line);
    match line[labels..].find(" # ") {
        Some(at) => &line[..labels + at],
        None => line,
    }
}

/// Where the labels end, by the quotes: a brace within them ends nothing.
fn labels_end(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at,
            b' ' if !quoted && !line[..at].contains('{') => return at,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::text,
        metrics::{
            counter::Counter, exemplar::CounterWithExemplar, family::Family, gauge::Gauge, histogram::Histogram,
            info::Info,
        },
        registry::{Registry, Unit},
    };

    use super::*;

    fn classic(registry: &Registry) -> String {
        let mut text = String::new();
        text::encode(&mut text, registry).unwrap();
        from_open_metrics(&text)
    }

    #[test]
    fn every_type_is_named_as_its_samples_are() {
        let mut registry = Registry::default();
        let counter = Family::<Vec<(&str, &str)>, Counter>::default();
        counter.get_or_create(&vec![("route", "a\"} # {b=\"\n\\")]).inc_by(3);
        registry.register("tollgate_x", "How \"many\"", counter);
        let gauge: Gauge = Gauge::default();
        gauge.set(-4);
        registry.register("tollgate_y", "Now", gauge);
        let histogram = Histogram::new([0.5, 1.0]);
        histogram.observe(0.7);
        registry.register_with_unit("tollgate_z", "Spread", Unit::Seconds, histogram);
        registry.register("tollgate_build", "Which", Info::new(vec![("version", "1")]));
        assert_eq!(
            classic(&registry),
            r#"# HELP tollgate_x_total How "many".
# TYPE tollgate_x_total counter
tollgate_x_total{route="a\"} # {b=\"\n\\"} 3
# HELP tollgate_y Now.
# TYPE tollgate_y gauge
tollgate_y -4
# HELP tollgate_z_seconds Spread.
# TYPE tollgate_z_seconds histogram
tollgate_z_seconds_sum 0.7
tollgate_z_seconds_count 1
tollgate_z_seconds_bucket{le="0.5"} 0
tollgate_z_seconds_bucket{le="1.0"} 1
tollgate_z_seconds_bucket{le="+Inf"} 1
# HELP tollgate_build_info Which.
# TYPE tollgate_build_info gauge
tollgate_build_info{version="1"} 1
"#
        );
    }

    #[test]
    fn exemplars_are_left_out() {
        let mut registry = Registry::default();
        let counter = CounterWithExemplar::<Vec<(String, String)>>::default();
        counter.inc_by(2, Some(vec![("trace".into(), "abc".into())]), None);
        registry.register("tollgate_e", "With", counter);
        assert!(classic(&registry).ends_with("\ntollgate_e_total 2\n"), "{}", classic(&registry));
    }
}

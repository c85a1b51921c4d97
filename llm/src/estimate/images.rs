//! What one image costs at most, by the rules that providers publish.

/// The most tokens of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageBound {
    /// With `detail: low`.
    pub(crate) low: u64,
    /// With any other detail, or none.
    pub(crate) high: u64,
}

/// OpenAI, by tiles: an image is scaled into 2048×2048, then its shorter side to 768, so it has at most 2×4 tiles.
const fn tiles(base: u64, tile: u64) -> ImageBound {
    ImageBound { low: base, high: base + 8 * tile }
}

/// OpenAI, by patches of 32×32: at most 1,536 of them, times the model's factor. Low detail is not cheaper for sure.
const fn patches(most: u64) -> ImageBound {
    ImageBound { low: most, high: most }
}

/// The first prefix that fits decides, so longer ones stand first.
const KNOWN: &[(&str, ImageBound)] = &[
    ("gpt-4o-mini", tiles(2_833, 5_667)),
    ("gpt-4o", tiles(85, 170)),
    ("gpt-4.1-mini", patches(2_489)),
    ("gpt-4.1-nano", patches(3_779)),
    ("gpt-4.1", tiles(85, 170)),
    ("gpt-4.5", tiles(85, 170)),
    ("gpt-4-turbo", tiles(85, 170)),
    ("gpt-4-vision", tiles(85, 170)),
    ("chatgpt-4o", tiles(85, 170)),
    // Only those of the first generation, by their full names: later ones (gpt-5.4…) take up to 10,000 patches.
    ("gpt-5-mini", patches(2_489)),
    ("gpt-5-nano", patches(3_779)),
    ("gpt-5-2025", tiles(70, 140)),
    ("gpt-5-chat", tiles(70, 140)),
    ("o1", tiles(75, 150)),
    ("o3", tiles(75, 150)),
    ("o4-mini", patches(2_642)),
    ("claude-3", patches(1_600)),
    // Larger pictures (2,576 px on the longer side) came with later models.
    ("claude-", patches(5_000)),
];

/// For a model whose rule we don't know: the most of any open model that we know a rule of (Qwen-VL's 16,384 patches).
const UNKNOWN: ImageBound = patches(16_384);

/// The rule for a model, by its name.
pub(crate) fn image_bound(model: &str) -> ImageBound {
    KNOWN.iter().find(|(prefix, _)| model.starts_with(prefix)).map_or(UNKNOWN, |(_, bound)| *bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        assert_eq!(image_bound("gpt-4o-2024-08-06"), ImageBound { low: 85, high: 1_445 });
        assert_eq!(image_bound("gpt-4o-mini").high, 48_169);
        assert_eq!(image_bound("claude-opus-4-7").high, 5_000);
        assert_eq!(image_bound("gpt-5-mini-2025-08-07").high, 2_489);
        assert_eq!(image_bound("gpt-5-2025-08-07"), ImageBound { low: 70, high: 1_190 });
        assert_eq!(image_bound("gpt-5.4"), UNKNOWN);
        assert_eq!(image_bound("llava"), UNKNOWN);
    }
}

//! What a misspelt word was meant to be.

/// Longer words are not compared: keys and names have no more.
const MAX_WORD: usize = 100;

/// The candidate that a word was probably meant to be: one that differs by a letter or two, by case and separators, or of
/// which the word is the beginning.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let word = folded(word);
    let allowed = (word.len() / 3).clamp(1, 2);
    let distances = candidates.into_iter().filter_map(|candidate| {
        let folded = folded(candidate);
        let begun = word.len() >= 3 && folded.starts_with(&word);
        let distance = if begun { 1 } else { distance(&word, &folded) };
        (distance <= allowed).then_some((distance, candidate))
    });
    // The first of several that are equally near, for the same message each time.
    distances.min().map(|(_, candidate)| candidate)
}

fn folded(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// How many letters have to be put in, taken out, changed or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        let keys = ["name", "endpoint", "kind", "webhook_secret", "webhook_auth", "repository"];
        for (word, meant) in [
            ("nmae", Some("name")),
            ("endpiont", Some("endpoint")),
            ("Endpoint", Some("endpoint")),
            ("webhookSecret", Some("webhook_secret")),
            ("webhook-auth", Some("webhook_auth")),
            ("repo", Some("repository")),
            ("knd", Some("kind")),
            ("url", None),
            ("namespace", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), keys), None);
        assert_eq!(nearest("prd", ["prod", "prd2"]), Some("prd2"));
    }
}

//! What lies nearest to features in a gallery of others.

/// Holds the features of a gallery's images, each with a length of 1, so that a product is a cosine.
pub struct Gallery(Vec<Vec<f64>>);

impl Gallery {
    /// Takes the features of the gallery's images, in their order.
    pub fn new(features: &[Vec<f32>]) -> Self {
        Self(
            features
                .iter()
                .map(|features| direction(features))
                .collect(),
        )
    }

    /// Returns the `count` images of the gallery, or all if there are fewer, whose features have the largest cosine to
    /// these, the nearest first; of equal ones the earlier one.
    pub fn nearest(&self, features: &[f32], count: usize) -> Vec<usize> {
        let query = direction(features);
        let cosine = |image: &Vec<f64>| {
            let products = image.iter().zip(&query);
            products.map(|(one, other)| one * other).sum::<f64>()
        };
        let cosines: Vec<f64> = self.0.iter().map(cosine).collect();
        let mut images: Vec<usize> = (0..cosines.len()).collect();
        // The sort is stable, so equal ones stay in order.
        images.sort_by(|&left, &right| cosines[right].total_cmp(&cosines[left]));
        images.truncate(count);
        images
    }
}

/// Returns features with a length of 1; zeros stay zeros.
fn direction(features: &[f32]) -> Vec<f64> {
    let features = features.iter().copied().map(f64::from);
    let length = features.clone().map(|x| x * x).sum::<f64>().sqrt();
    match length {
        0.0 => features.collect(),
        _ => features.map(|x| x / length).collect(),
    }
}

/// Returns the label that most of `nearest` have; of several with as many the one whose first comes first.
pub fn vote<'a>(nearest: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut votes: Vec<(&str, usize)> = Vec::new();
    for label in nearest {
        match votes.iter_mut().find(|(other, _)| *other == label) {
            Some((_, count)) => *count += 1,
            None => votes.push((label, 1)),
        }
    }
    let most = votes.iter().map(|(_, count)| *count).max()?;
    let mut winners = votes.into_iter().filter(|(_, count)| *count == most);
    winners.next().map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_those_of_the_largest_cosine() {
        let gallery = [[1.0, 0.0], [0.0, 9.0], [3.0, 3.0], [0.5, 0.5], [-1.0, 0.0]];
        let gallery = Gallery::new(&gallery.map(|features| features.to_vec()));
        assert_eq!(gallery.nearest(&[1.0, 0.9], 3), [2, 3, 0]);
        assert_eq!(gallery.nearest(&[0.0, 0.1], 1), [1]);
        assert_eq!(gallery.nearest(&[1.0, 0.0], 9), [0, 2, 3, 1, 4]);
    }

    #[test]
    fn the_nearer_label_decides_a_tie() {
        assert_eq!(vote(["b", "a", "a", "b", "c"]), Some("b"));
        assert_eq!(vote(["b", "a", "a"]), Some("a"));
        assert_eq!(vote([]), None);
    }
}

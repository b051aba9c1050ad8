//! The relative positions of Swin and BEiT: a bias of the score of two tokens, by how far they are apart. In Swin V2 the
//! distance's logarithm tells it.

use crate::graph::Parameter;

/// Sets the distance, on a scale where a window's largest one is 8, whose logarithm counts as 1.
const SPACING: f64 = 8.0;
/// Limits the biases that Swin V2's MLP gives.
const LARGEST: f64 = 16.0;

/// Describes the bias of each head's scores, `[heads, tokens, tokens]`, of a window of so many rows and columns, and of
/// the class token that is before it in BEiT (`class_tokens` is 0 or 1). It is what the block's table has for a query's
/// and a key's distance, down and across: `[(2 rows - 1) (2 columns - 1), heads]`. BEiT's has three rows more, for the
/// class token's scores of the patches, the patches' of the class token, and its own.
pub fn bias(block: &str, window: [usize; 2], class_tokens: usize, heads: usize) -> Parameter {
    let table = format!("{block}.attn.relative_position_bias_table");
    Parameter::derived([table], move |[table]| {
        expanded(table, &index(window, class_tokens), heads)
    })
}

/// Describes the bias of each head's scores, `[heads, window², window²]`, in Swin V2: 16 times the sigmoid of what an MLP
/// makes of a query's and a key's distance (timm's `cpb_mlp`, which is the same for every image). Distances down and across
/// are log-spaced, in units of the `trained` window's largest one.
pub fn continuous_bias(block: &str, window: usize, trained: usize, heads: usize) -> Parameter {
    let names =
        ["0.weight", "0.bias", "2.weight"].map(|name| format!("{block}.attn.cpb_mlp.{name}"));
    Parameter::derived(names, move |layers| {
        let spaced = log_spaced(window, trained);
        let distances = pairs(spaced.len()).map(|(down, across)| [spaced[down], spaced[across]]);
        let bounded = |x: f64| (LARGEST / (1.0 + libm::exp(-x))) as f32;
        let table: Vec<f32> = distances
            .flat_map(|distance| mlp(distance, layers))
            .map(bounded)
            .collect();
        expanded(&table, &index([window; 2], 0), heads)
    })
}

/// Computes out · relu(weight · distance + bias), a value for each head.
fn mlp(distance: [f64; 2], [weight, bias, out]: [&[f32]; 3]) -> Vec<f64> {
    let product = |row: &[f32], x: &[f64]| -> f64 {
        let terms = row.iter().zip(x);
        terms.map(|(w, x)| f64::from(*w) * x).sum()
    };
    let rows = weight.chunks_exact(distance.len()).zip(bias);
    let hidden: Vec<f64> = rows
        .map(|(row, bias)| (product(row, &distance) + f64::from(*bias)).max(0.0))
        .collect();
    let rows = out.chunks_exact(hidden.len());
    rows.map(|row| product(row, &hidden)).collect()
}

/// Lists the distances -(window - 1) to window - 1, log-spaced: sign(x) log2(|x| + 1) / log2(8), where x is 8 for the
/// largest one of the window that the network was `trained` with.
fn log_spaced(window: usize, trained: usize) -> Vec<f64> {
    let reach = window as i64 - 1;
    let largest = (trained as f64 - 1.0).max(1.0);
    let spaced = |distance: i64| {
        let x = SPACING * distance as f64 / largest;
        libm::log2(x.abs() + 1.0) / libm::log2(SPACING) * x.signum()
    };
    (-reach..=reach).map(spaced).collect()
}

/// Gives each head, query and key what `table` `[rows, heads]` has in its row.
fn expanded(table: &[f32], rows: &[usize], heads: usize) -> Vec<f32> {
    let of_head = |head| rows.iter().map(move |row| table[row * heads + head]);
    (0..heads).flat_map(of_head).collect()
}

/// Lists which row of the table holds for each query and key (timm's `relative_position_index`).
fn index([rows, columns]: [usize; 2], class_tokens: usize) -> Vec<usize> {
    let [tall, wide] = [rows, columns].map(|side| 2 * side - 1);
    let [to_patch, to_class, own] = [0, 1, 2].map(|row| tall * wide + row);
    // None is the class token.
    let tokens = || {
        let class = std::iter::repeat_n(None, class_tokens);
        class.chain(places(rows, columns).map(Some))
    };
    let row = |query, key| match (query, key) {
        (Some((query_y, query_x)), Some((key_y, key_x))) => {
            let [down, across] = [(query_y, key_y, rows), (query_x, key_x, columns)]
                .map(|(query, key, side)| query + side - 1 - key);
            down * wide + across
        }
        (None, Some(_)) => to_patch,
        (Some(_), None) => to_class,
        (None, None) => own,
    };
    let of_query = |query| tokens().map(move |key| row(query, key));
    tokens().flat_map(of_query).collect()
}

/// Lists (0, 0), (0, 1), … (count - 1, count - 1).
pub fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    places(count, count)
}

/// Lists row and column of each place, row by row.
fn places(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows * columns).map(move |at| (at / columns, at % columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_spaced_by_their_logarithms() {
        // timm's `relative_coords_table` of a window of 3, and of one that was trained with a window of 2: the largest
        // distance is 8, or 16.
        let [third, largest, beyond] = [5.0, 9.0, 17.0].map(|x: f64| x.log2() / 3.0);
        for (trained, expected) in [
            (3, [-largest, -third, 0.0, third, largest]),
            (2, [-beyond, -largest, 0.0, largest, beyond]),
        ] {
            for (found, expected) in log_spaced(3, trained).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-15, "{found} {expected}");
            }
        }
        assert_eq!(log_spaced(1, 1), [0.0]);
    }

    #[test]
    fn rows_go_by_distance() {
        // A window of 2 has distances -1, 0, 1 down and across: row 4 is (0, 0), and a row down is 3 rows.
        let index = index([2, 2], 0);
        // From the first token to all four, then from the last one.
        assert_eq!(index[..4], [4, 3, 1, 0]);
        assert_eq!(index[12..], [8, 7, 5, 4]);
    }

    #[test]
    fn the_class_token_has_rows_of_its_own() {
        let index = index([2, 2], 1);
        assert_eq!(index[..5], [11, 9, 9, 9, 9]);
        assert_eq!(index[5..10], [10, 4, 3, 1, 0]);
        assert_eq!(index[20..], [10, 8, 7, 5, 4]);
    }
}

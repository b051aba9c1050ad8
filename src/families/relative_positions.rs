//! The relative positions of Swin and BEiT: a bias of the score of two tokens, by how far they are apart.

use crate::graph::Parameter;

/// Describes the bias of each head's scores, `[heads, tokens, tokens]`, of a square window of this side, and of the class
/// token that is before it in BEiT (`class_tokens` is 0 or 1). It is what the block's table has for a query's and a key's
/// distance, down and across: `[(2 window - 1)², heads]`. BEiT's has three rows more, for the class token's scores of the
/// patches, the patches' of the class token, and its own.
pub fn bias(block: &str, window: usize, class_tokens: usize, heads: usize) -> Parameter {
    let table = format!("{block}.attn.relative_position_bias_table");
    Parameter::derived(table, move |table| {
        let rows = index(window, class_tokens);
        let of_head = |head| rows.iter().map(move |row| table[row * heads + head]);
        (0..heads).flat_map(of_head).collect()
    })
}

/// Lists which row of the table holds for each query and key (timm's `relative_position_index`).
fn index(window: usize, class_tokens: usize) -> Vec<usize> {
    let side = 2 * window - 1;
    let [to_patch, to_class, own] = [0, 1, 2].map(|row| side * side + row);
    // None is the class token.
    let tokens = || {
        let class = std::iter::repeat_n(None, class_tokens);
        class.chain(pairs(window).map(Some))
    };
    let row = |query, key| match (query, key) {
        (Some((query_y, query_x)), Some((key_y, key_x))) => {
            let [down, across] =
                [(query_y, key_y), (query_x, key_x)].map(|(query, key)| query + window - 1 - key);
            down * side + across
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
    (0..count * count).map(move |at| (at / count, at % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_by_distance() {
        // A window of 2 has distances -1, 0, 1 down and across: row 4 is (0, 0), and a row down is 3 rows.
        let index = index(2, 0);
        // From the first token to all four, then from the last one.
        assert_eq!(index[..4], [4, 3, 1, 0]);
        assert_eq!(index[12..], [8, 7, 5, 4]);
    }

    #[test]
    fn the_class_token_has_rows_of_its_own() {
        let index = index(2, 1);
        assert_eq!(index[..5], [11, 9, 9, 9, 9]);
        assert_eq!(index[5..10], [10, 4, 3, 1, 0]);
        assert_eq!(index[20..], [10, 8, 7, 5, 4]);
    }
}

//! Names of tensors in place of others, as tables.

/// Maps names of modules or of parameters, transformers' first, timm's second. A `*` stands for the same number in both.
pub type Table = &'static [(&'static str, &'static str)];

/// Names the first layer of most networks of transformers'.
pub const FIRST_LAYER: &str = "embeddings.patch_embeddings.projection.weight";

/// Holds what one kind of network's tensors are called.
pub struct Names {
    /// Whose names they are.
    pub origin: &'static str,
    /// What the network is called within a model: the word before its names, which tells the kind.
    pub networks: &'static [&'static str],
    /// Whether networks of other kinds are called so, too.
    pub shares_words: bool,
    /// The tensor that the network begins with.
    pub first_layer: &'static str,
    /// Tensors of the network that none of the kinds listed after it has all of: where there are some, they tell a network
    /// that is saved without such a word, or with one that others have too.
    pub telling: &'static [&'static str],
    /// The network but for its blocks.
    pub around: Table,
    /// The blocks themselves. transformers 5 names modules otherwise than its files do.
    pub blocks: Table,
    /// What is in a block, in both spellings.
    pub block: Table,
    /// What is beside the network.
    pub heads: Table,
    /// What is in the network and the answer isn't computed from.
    pub unread: &'static [&'static str],
    /// What is in the network and the answer isn't computed from where there is one of the `heads`.
    pub unread_with_head: &'static [&'static str],
    /// What is beside the network and the answer isn't computed from: the text's part of a model.
    pub beside: &'static [&'static str],
    /// Weights that are `[inputs, outputs]`, by timm's names.
    pub transposed: &'static [&'static str],
}

/// Returns the name that `table` has in place of `name`, which is a whole one, or a module's with its parameter.
pub fn looked_up(table: Table, name: &str) -> Option<String> {
    table.iter().find_map(|(theirs, timms)| {
        let (timms, parameter) = matched(theirs, timms, name)?;
        match &*parameter {
            "" => Some(timms),
            "weight" | "bias" => Some(format!("{timms}.{parameter}")),
            _ => None,
        }
    })
}

/// Returns `timms` with the numbers that `name` has in the places of the stars of `theirs`, if it begins so, and what follows.
pub fn matched(theirs: &str, timms: &str, name: &str) -> Option<(String, String)> {
    let mut words = name.split('.');
    let mut timms = timms.to_owned();
    for pattern in theirs.split('.') {
        let word = words.next()?;
        if pattern == "*" && word.bytes().all(|byte| byte.is_ascii_digit()) {
            timms = timms.replacen('*', word, 1);
        } else if pattern != word {
            return None;
        }
    }
    Some((timms, words.collect::<Vec<_>>().join(".")))
}

//! Which module uses which, as the sources say it, that no modules use each other in a circle, and that only the command
//! line speaks of flags.
//!
//! Modules are the files of `src`. A file uses what its `use` lines and paths lead to, through re-exports, to the file that
//! defines it; that a `mod.rs` re-exports what its folder has is no use of it. Unit tests don't count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// Circles of files that are still there, in the order of their names. They may only become smaller and fewer.
const KNOTS: &[&[&str]] = &[&[
    "kernels::integer_product",
    "kernels::integer_product_cooperative",
    "kernels::integer_product_cooperative_int8",
]];

/// A module by the names that lead to it from the crate's root, which is empty.
type Name = Vec<String>;

/// What a file of the sources says.
#[derive(Default)]
struct Module {
    /// Names that it has from elsewhere for everybody, and where from.
    exports: BTreeMap<String, Name>,
    /// Paths that it uses, absolute.
    paths: BTreeSet<Name>,
}

/// Collects what a file uses.
struct Uses<'a> {
    of: &'a Name,
    /// Of all modules.
    names: &'a BTreeSet<Name>,
    module: Module,
}

impl Uses<'_> {
    /// The absolute path, if it is one of this crate's.
    fn absolute(&self, path: &[String]) -> Option<Name> {
        let (first, rest) = path.split_first()?;
        let mut absolute = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.of.clone(),
            "super" => self.of[..self.of.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for name in rest {
            match name.as_str() {
                "super" => drop(absolute.pop()),
                "self" => {}
                name => absolute.push(name.to_owned()),
            }
        }
        Some(absolute)
    }

    fn tree(&mut self, tree: &UseTree, before: &[String], exported: bool) {
        let longer = |name: String| [before, &[name]].concat();
        let (path, alias) = match tree {
            UseTree::Path(path) => {
                let before = longer(path.ident.to_string());
                return self.tree(&path.tree, &before, exported);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, exported);
                }
                return;
            }
            UseTree::Name(name) => (longer(name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(name) => (longer(name.ident.to_string()), name.rename.to_string()),
            UseTree::Glob(_) => (before.to_vec(), "*".to_owned()),
        };
        let child = [&self.of[..], &path[..1]].concat();
        let absolute = match self.absolute(&path) {
            Some(absolute) => absolute,
            // A path may begin with one of the module's own.
            None if self.names.contains(&child) => [&self.of[..], &path[..]].concat(),
            None => return,
        };
        if exported {
            self.module.exports.insert(alias, absolute);
        } else {
            self.module.paths.insert(absolute);
        }
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter();
        let names: Name = names.map(|segment| segment.ident.to_string()).collect();
        if let Some(absolute) = self.absolute(&names)
            && names.len() > 1
        {
            self.module.paths.insert(absolute);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let exported = !matches!(item.vis, Visibility::Inherited);
        self.tree(&item.tree, &[], exported);
    }
}

/// Whether attributes say that it is there for unit tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        tokens
            .split(|it: char| !it.is_alphanumeric())
            .any(|word| word == "test")
    })
}

/// Every module of `src` but the unit tests' own.
fn modules() -> BTreeMap<Name, Module> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&root) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(&root).unwrap().with_extension("");
        if entry.path().extension().is_none_or(|ending| ending != "rs") || path == Path::new("main")
        {
            continue;
        }
        let mut name: Name = path
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        if name
            .last()
            .is_some_and(|last| last == "mod" || last == "lib")
        {
            name.pop();
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        files.insert(name, syn::parse_file(&text).unwrap());
    }
    let mut tests = BTreeSet::new();
    for (name, file) in &files {
        for item in &file.items {
            if let Item::Mod(ItemMod { attrs, ident, .. }) = item
                && is_test(attrs)
            {
                tests.insert([&name[..], &[ident.to_string()]].concat());
            }
        }
    }
    files.retain(|name, _| !tests.contains(name));
    let names: BTreeSet<Name> = files.keys().cloned().collect();
    let read = |(name, file): (Name, syn::File)| {
        let mut uses = Uses {
            of: &name,
            names: &names,
            module: Module::default(),
        };
        uses.visit_file(&file);
        let module = uses.module;
        (name, module)
    };
    files.into_iter().map(read).collect()
}

/// The module that defines what an absolute path leads to.
fn resolve(modules: &BTreeMap<Name, Module>, path: &[String]) -> Name {
    let mut at = Name::new();
    for (index, name) in path.iter().enumerate() {
        let child = [&at[..], std::slice::from_ref(name)].concat();
        if modules.contains_key(&child) {
            at = child;
        } else if let Some(from) = modules[&at].exports.get(name) {
            let rest = &path[index + 1..];
            return resolve(modules, &[&from[..], rest].concat());
        } else {
            break;
        }
    }
    at
}

/// What each module uses, other modules by their names.
fn uses(modules: &BTreeMap<Name, Module>) -> BTreeMap<String, BTreeSet<String>> {
    let shown = |name: &Name| name.join("::");
    let used = modules.iter().map(|(name, module)| {
        let used = module.paths.iter().map(|path| resolve(modules, path));
        let others = used.filter(|other| other != name && !other.is_empty());
        (shown(name), others.map(|other| shown(&other)).collect())
    });
    used.collect()
}

/// Everything that can be reached from `from`.
fn reachable<'a>(uses: &'a BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<&str> = uses[from].iter().map(String::as_str).collect();
    while let Some(next) = ahead.pop() {
        if found.insert(next) {
            ahead.extend(uses[next].iter().map(String::as_str));
        }
    }
    found
}

/// Modules that use each other, by whatever way round.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses
        .keys()
        .map(|name| (name.as_str(), reachable(uses, name)))
        .collect();
    let mut circles = BTreeSet::new();
    for (name, forth) in &reached {
        let back = |other: &&str| reached[other].contains(name);
        let circle: Vec<&str> = forth.iter().copied().filter(back).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles
}

/// The same by rooms: the files and folders at the top of `src`.
fn rooms(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let room = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, used) in uses {
        let others = used.iter().map(|other| room(other));
        rooms
            .entry(room(name))
            .or_default()
            .extend(others.filter(|other| *other != room(name)));
    }
    rooms
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let modules = modules();
    let uses = uses(&modules);
    let rooms = rooms(&uses);
    for (room, used) in &rooms {
        let used: Vec<&str> = used.iter().map(String::as_str).collect();
        println!("{room:<12} {}", used.join(" "));
    }
    assert_eq!(circles(&rooms), BTreeSet::new());
    let circles = circles(&uses);
    let is_known = |circle: &&Vec<&str>| {
        let mut knots = KNOTS.iter();
        knots.any(|knot| circle.iter().all(|name| knot.contains(name)))
    };
    let new: Vec<_> = circles.iter().filter(|circle| !is_known(circle)).collect();
    assert!(new.is_empty(), "new circles: {new:?}");
    for knot in KNOTS {
        let is_left = |circle: &Vec<&str>| circle.iter().all(|name| knot.contains(name));
        assert!(circles.iter().any(is_left), "undone: {knot:?}");
    }
}

/// What the library says, whoever calls it may offer under other names.
#[test]
fn only_the_command_line_speaks_of_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in walkdir::WalkDir::new(&root) {
        let entry = entry.unwrap();
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "rs")
            || path.starts_with(root.join("cli"))
        {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let mut flags = line.match_indices("--");
            let is_flag = |(at, _): (usize, &str)| {
                let before = line[..at].chars().next_back();
                let after = line[at + 2..].chars().next();
                after.is_some_and(|it| it.is_ascii_lowercase())
                    && before.is_none_or(|it| !it.is_alphanumeric() && it != '-')
            };
            assert!(!flags.any(is_flag), "{}:{number}: {line}", path.display());
        }
    }
}

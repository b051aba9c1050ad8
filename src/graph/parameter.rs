//! Where the values of an operation's parameters come from.

use crate::error::Result;
use std::sync::Arc;

/// Names a parameter of an operation by the tensors of the `state_dict` that it consists of.
#[derive(Clone)]
pub struct Parameter(Vec<Source>);

#[derive(Clone)]
enum Source {
    Tensor(String),
    Derived(Vec<String>, Derivation),
    Constant(Arc<dyn Fn() -> Vec<f32> + Send + Sync>),
}

/// Computes a parameter's values from those of tensors.
type Derivation = Arc<dyn Fn(&[Vec<f32>]) -> Vec<f32> + Send + Sync>;

impl Parameter {
    /// Describes a parameter that is a tensor as it is.
    pub fn tensor(name: impl Into<String>) -> Self {
        Self(vec![Source::Tensor(name.into())])
    }

    /// Describes a parameter that `derive` computes from tensors, in the order of their names, when it is loaded.
    pub fn derived<const N: usize>(
        names: [String; N],
        derive: impl Fn([&[f32]; N]) -> Vec<f32> + Send + Sync + 'static,
    ) -> Self {
        let derive =
            move |tensors: &[Vec<f32>]| derive(std::array::from_fn(|tensor| &tensors[tensor][..]));
        Self(vec![Source::Derived(names.to_vec(), Arc::new(derive))])
    }

    /// Describes a parameter that `make` computes when it is loaded, without any tensor.
    pub fn constant(make: impl Fn() -> Vec<f32> + Send + Sync + 'static) -> Self {
        Self(vec![Source::Constant(Arc::new(make))])
    }

    /// Describes a parameter without values, for others to be appended.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Appends the values of `next` to these.
    pub fn then(mut self, next: Self) -> Self {
        self.0.extend(next.0);
        self
    }

    /// Names the tensor, where the parameter is a single one, unchanged.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.0[..] {
            [Source::Tensor(name)] => Some(name),
            _ => None,
        }
    }

    /// Collects the values; `float` gives a tensor by its name.
    ///
    /// # Errors
    /// Those of `float`.
    pub(super) fn values(&self, float: &dyn Fn(&str) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for source in &self.0 {
            values.extend(match source {
                Source::Tensor(name) => float(name)?,
                Source::Derived(names, derive) => {
                    let tensors = names.iter().map(|name| float(name));
                    derive(&tensors.collect::<Result<Vec<_>>>()?)
                }
                Source::Constant(make) => make(),
            });
        }
        Ok(values)
    }
}

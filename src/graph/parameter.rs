//! Where the values of an operation's parameters come from.

use crate::error::Result;
use std::sync::Arc;

/// Names a parameter of an operation by the tensors of the `state_dict` that it consists of.
#[derive(Clone)]
pub struct Parameter(Vec<Source>);

#[derive(Clone)]
enum Source {
    Tensor(String),
    Derived(String, Derivation),
    Constant(Arc<dyn Fn() -> Vec<f32> + Send + Sync>),
}

/// Makes values of a tensor's.
type Derivation = Arc<dyn Fn(&[f32]) -> Vec<f32> + Send + Sync>;

impl Parameter {
    /// Takes a tensor as it is.
    pub fn tensor(name: impl Into<String>) -> Self {
        Self(vec![Source::Tensor(name.into())])
    }

    /// Takes what `derive` makes of a tensor, when the parameter is loaded.
    pub fn derived(
        name: impl Into<String>,
        derive: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
    ) -> Self {
        Self(vec![Source::Derived(name.into(), Arc::new(derive))])
    }

    /// Takes what `make` gives when the parameter is loaded: no tensor has a part in it.
    pub fn constant(make: impl Fn() -> Vec<f32> + Send + Sync + 'static) -> Self {
        Self(vec![Source::Constant(Arc::new(make))])
    }

    /// Puts `next` after these values.
    pub fn then(mut self, next: Self) -> Self {
        self.0.extend(next.0);
        self
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
                Source::Derived(name, derive) => derive(&float(name)?),
                Source::Constant(make) => make(),
            });
        }
        Ok(values)
    }
}

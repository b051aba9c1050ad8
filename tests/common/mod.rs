//! What the test files share.

use ptq4vit_gpu::device::{Device, adapters, open};

/// Every device to test: all adapters, which must pass the self-test, and the CPU. Fails if there is no adapter.
pub fn devices() -> Vec<Device> {
    let found = adapters();
    assert!(
        !found.is_empty(),
        "no GPU adapter is left to test; `tests/run` installs a software Vulkan driver"
    );
    found
        .iter()
        .map(|adapter| {
            let index = adapter.index.expect("an adapter has an index");
            open(Some(&index.to_string()))
                .unwrap_or_else(|error| panic!("{error}"))
                .device
        })
        .chain([Device::cpu()])
        .collect()
}

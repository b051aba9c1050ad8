//! Refuses a driver that computes wrong, and names the cure.

use super::{Binding, Commands, Device, Shader};

static SHADER: Shader = Shader {
    name: "self_test",
    source: include_str!("../../shaders/self_test.wgsl"),
};

const ROWS: u32 = 300;
const COLUMNS: u32 = 300;
const LEFT: [i8; 4] = [-128, 127, -1, 3];
const RIGHT: [i8; 4] = [127, -128, -1, 5];

/// Runs the probes of `shaders/self_test.wgsl` on `device`.
///
/// # Errors
/// One sentence that says what was computed wrong, what was expected, and what to do about it.
pub(super) async fn self_test(device: &Device) -> Result<(), String> {
    if let Device::Cpu(_) = device {
        return Ok(());
    }
    let mut commands = Commands::new(device);
    let result = device.zeros::<u32>(2);
    let word = |bytes: [i8; 4]| u32::from_le_bytes(bytes.map(|byte| byte as u8));
    commands.dispatch(
        &SHADER,
        &[],
        &[ROWS, COLUMNS, word(LEFT), word(RIGHT)],
        &[Binding::U32(&result)],
        1,
    );
    let result = commands.read_async(&result).await;
    let result = result.map_err(|error| error.to_string())?;
    if result[0] != ROWS * COLUMNS {
        return Err(format!(
            "this driver computes wrong: a loop of {} iterations stopped after {}; Mesa before 23 does this in \
             software: install Mesa 25 or newer (on Debian 12: `apt-get install -t bookworm-backports \
             mesa-vulkan-drivers`), or use the device `cpu`",
            ROWS * COLUMNS,
            result[0]
        ));
    }
    let expected: i32 = LEFT
        .iter()
        .zip(RIGHT)
        .map(|(&left, right)| i32::from(left) * i32::from(right))
        .sum();
    if result[1] as i32 != expected {
        return Err(format!(
            "this driver computes wrong: an int8 dot product gave {} instead of {expected}; update the driver, or \
             use the device `cpu`",
            result[1] as i32
        ));
    }
    Ok(())
}

//! The memory that argon2 works in.

use argon2::Block;

/// Kept by whoever hashes often.
pub type Memory = Vec<Block>;

/// So many blocks of the memory. One hash that takes much leaves no thread with as much for ever.
pub(super) fn blocks(memory: &mut Memory, count: usize) -> &mut [Block] {
    if memory.len() > count.saturating_mul(2) {
        memory.truncate(count);
        memory.shrink_to_fit();
    }
    if memory.len() < count {
        memory.resize(count, Block::new());
    }
    &mut memory[..count]
}

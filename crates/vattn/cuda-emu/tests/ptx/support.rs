//! Device memory for tests: buffers with nothing mapped between them.

use vattn_cuda_emu::memory::{Access, Denied, DeviceMemory, Fault};

/// Buffers at addresses of their own, far apart.
#[derive(Default)]
pub(crate) struct Buffers(Vec<(u64, Vec<u8>)>);

impl Buffers {
    /// Maps a buffer and returns its address, which is a multiple of 256.
    pub(crate) fn map(&mut self, bytes: Vec<u8>) -> u64 {
        let address = (self.0.len() as u64 + 1) << 32;
        self.0.push((address, bytes));
        address
    }

    /// The bytes of the buffer at an address that [`map`](Self::map) returned.
    pub(crate) fn bytes(&self, address: u64) -> &[u8] {
        &self.0[(address >> 32) as usize - 1].1
    }

    fn find(&self, address: u64, bytes: usize, access: Access) -> Result<(usize, std::ops::Range<usize>), Fault> {
        let fault = |at| Fault {
            address,
            bytes: bytes as u64,
            access,
            at,
            why: Denied::Unmapped,
        };
        let index = ((address >> 32) as usize).wrapping_sub(1);
        let (base, buffer) = self.0.get(index).ok_or_else(|| fault(address))?;
        let start = (address - base) as usize;
        if start + bytes > buffer.len() {
            return Err(fault(base + (buffer.len().max(start)) as u64));
        }
        Ok((index, start..start + bytes))
    }
}

impl DeviceMemory for Buffers {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let (index, range) = self.find(address, bytes.len(), Access::Read)?;
        bytes.copy_from_slice(&self.0[index].1[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (index, range) = self.find(address, bytes.len(), Access::Write)?;
        self.0[index].1[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// A module with the kernel `k(out)` of this body. It has registers `%r`, `%d`, `%h`, `%f` and `%p`, 16 of each.
pub(crate) fn program(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_70\n.address_size 64\n.extern .shared .align 4 .b8 dynamic[];\n\
         .visible .entry k(.param .u64 out)\n{{\n.reg .b32 %r<16>;\n.reg .b64 %d<16>;\n.reg .b16 %h<16>;\n\
         .reg .f32 %f<16>;\n.reg .pred %p<16>;\n{body}\n}}\n"
    )
}

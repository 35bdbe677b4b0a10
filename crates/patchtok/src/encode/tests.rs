use super::*;

/// Every encoder gives the tokens of the reference, for random merges over a small alphabet.
#[test]
fn scan_and_heap_equal_the_reference() {
    let mut random = Random(1);
    for round in 0..300 {
        let letters = 1 + random.below(4) as u32;
        let mut merges = Vec::new();
        let mut known = letters;
        while merges.len() < 40 {
            let (left, right) = (random.below(known as u64) as u32, random.below(known as u64) as u32);
            if merges.iter().all(|m: &Merge| (m.left, m.right) != (left, right)) {
                merges.push(Merge {
                    left,
                    right,
                    result: known,
                });
                known += 1;
            }
            if letters == 1 && merges.len() == 12 {
                break;
            }
        }
        // Ranks need not follow the order in which tokens came to be.
        if round % 2 == 0 {
            let swap = random.below(merges.len() as u64) as usize;
            merges.swap(0, swap);
        }
        let merges = Merges::new(&merges);
        let (mut scan_scratch, mut heap_scratch) = (scan::Scratch::default(), heap::Scratch::default());
        for _ in 0..20 {
            let piece: Vec<u32> = (0..random.below(80))
                .map(|_| random.below(u64::from(letters)) as u32)
                .collect();
            let mut expected = piece.clone();
            reference::merge(&mut expected, &merges);
            let mut scanned = Vec::new();
            scan::merge(piece.iter().copied(), &merges, &mut scan_scratch, &mut scanned);
            let mut heaped = Vec::new();
            heap::merge(piece.iter().copied(), &merges, &mut heap_scratch, &mut heaped);
            assert_eq!(scanned, expected, "scan of {piece:?}");
            assert_eq!(heaped, expected, "heap of {piece:?}");
        }
    }
}

/// A small generator (xorshift*), so that the cases are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

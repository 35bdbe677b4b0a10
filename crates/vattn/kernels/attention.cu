// Attention over rows at contiguous addresses: the key and value rows of a sequence as a cache keeps them, whatever pages
// stand behind them. One kernel does decode (one query row) and prefill (many): only the launch differs.
//
// It includes no header. make_ptx.py compiles it once for each element type (-DELEMENT=f32, f16, bf16); the PTX that comes
// out is what ships.
//
// Shapes. A query row is (heads, head_size), a key or value row is (kv_heads, head_size); heads = kv_heads * group. Query
// row i of a sequence sees its rows 0 ..= rows - queries + i (causal). head_size is 1 to 128. All sums are f32.
//
// A *slot* is one query row and one head: what one softmax runs over. All slots of a sequence and a key head read the same
// rows. A warp owns SLOTS of them and walks the rows in tiles of 32 / SLOTS, so that a tile has 32 scores, one for each
// lane. In the products the lanes stand for columns of the head instead: lane l owns columns l, l + 32, ... (CHUNKS of
// them). From the second view to the first it is one transposing sum: 31 shuffles for 32 dot products.
//
// The softmax is online (Milakov and Gimelshein 2018, arXiv:1805.02867): the largest score so far and the sum of the
// weights relative to it are kept, and what was summed before a new largest score is scaled down. Scores carry a factor of
// log2(e), so that a weight is one ex2.
//
// The tiles are dealt out to `row_warps` warps of a block in `splits` blocks (Dao et al. 2023, "Flash-Decoding"). Warps of
// a block meet in shared memory, blocks in the buffer `partial`, which the merge kernel reads.

#define ALL_LANES 0xffffffffu
#define LOWEST -3.402823466e38f  // not -infinity: the difference of two of them is 0 and not a NaN
#define HIDDEN __int_as_float(0xff800000)  // the score of a row that the query may not see: its weight is 0

typedef unsigned long long u64;
typedef unsigned int u32;
typedef float f32;
struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

__device__ inline float widen(f32 x) { return x; }
__device__ inline float widen(bf16 x) { return __int_as_float((u32)x.bits << 16); }
__device__ inline float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ inline void store(f32* at, float x) { *at = x; }
__device__ inline void store(f16* at, float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    at->bits = y;
}
// To nearest, ties to even, in integers: compute_70 has no instruction for it.
__device__ inline void store(bf16* at, float x) {
    const u32 bits = __float_as_int(x);
    at->bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Nothing in this launch writes what this reads.
__device__ inline float load(const f32* at) { return __ldg(at); }
template <class T>
__device__ inline float load(const T* at) {
    T x;
    x.bits = __ldg(&at->bits);
    return widen(x);
}

__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// One sequence of the batch; the table of them lies in device memory.
struct Sequence {
    u64 k, v;         // addresses of row 0, head 0, column 0
    u32 first_query;  // index of its first query row in `queries` and `out`
    u32 queries;      // number of its query rows
    u32 rows;         // number of its key rows, those of the queries included
    u32 reserved;
};

struct Attention {
    u64 sequences;  // address of the table
    u64 queries;    // addresses of the query rows and the output rows of the whole batch
    u64 out;
    u64 partial;  // of f32 (query rows, heads, splits, 2 + head_size): top, total, sums; not read with one split
    u32 query_stride, out_stride, row_stride;  // from row to row, in bytes
    u32 heads, group, head_size;
    u32 row_warps, splits;
    float scale;  // of the scores, log2(e) included
    u32 reserved;
};

// Lane l gets in x[0] the sum over all lanes of their x[l]: in each step a lane hands on the half that it does not keep.
template <u32 HALF>
__device__ inline void transposing_sum(float (&x)[32], u32 lane) {
    const bool upper = lane & HALF;
#pragma unroll
    for (u32 i = 0; i < HALF; i++) {
        const float keep = upper ? x[i + HALF] : x[i];
        const float send = upper ? x[i] : x[i + HALF];
        x[i] = keep + __shfl_xor_sync(ALL_LANES, send, HALF);
    }
    transposing_sum<HALF / 2>(x, lane);
}
template <>
__device__ inline void transposing_sum<0>(float (&)[32], u32) {}

template <class T, u32 CHUNKS, u32 SLOTS>
__device__ inline void attend(const Attention& a) {
    const u32 TILE = 32 / SLOTS;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const u32 split = blockIdx.x % a.splits, slot_block = blockIdx.x / a.splits;
    const u32 kv_head = blockIdx.y;
    const Sequence s = ((const Sequence*)a.sequences)[blockIdx.z];

    const u32 slots = s.queries * a.group;
    const u32 slots_per_block = warps / a.row_warps * SLOTS;
    if (slot_block * slots_per_block >= slots) return;  // the batch has a longer sequence: all of this block leaves
    const u32 first = slot_block * slots_per_block + warp / a.row_warps * SLOTS;

    // A slot past the last one repeats it: its addresses are good and its result is not stored.
    auto query_of = [&](u32 i) { return min(first + i, slots - 1) / a.group; };
    auto head_of = [&](u32 i) { return kv_head * a.group + min(first + i, slots - 1) % a.group; };
    const u32 before = s.rows - s.queries;
    const u32 end = first < slots ? before + query_of(SLOTS - 1) + 1 : 0;
    const u32 limit = before + query_of(lane / TILE) + 1;  // of the slot whose scores this lane holds

    // A column past the head repeats the last one against a query of zero, and is not stored.
    u64 k[CHUNKS], v[CHUNKS];
    float q[SLOTS][CHUNKS], sum[SLOTS][CHUNKS];
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        const u32 column = min(lane + 32 * c, a.head_size - 1);
        k[c] = s.k + (kv_head * a.head_size + column) * sizeof(T);
        v[c] = s.v + (kv_head * a.head_size + column) * sizeof(T);
#pragma unroll
        for (u32 i = 0; i < SLOTS; i++) {
            const u64 row = a.queries + (u64)(s.first_query + query_of(i)) * a.query_stride;
            const float x = load((const T*)row + head_of(i) * a.head_size + column);
            q[i][c] = lane + 32 * c < a.head_size ? x * a.scale : 0.0f;
            sum[i][c] = 0.0f;
        }
    }

    float top = LOWEST, total = 0.0f;  // of this lane's slot; the total only over this lane's rows
    const u32 part = split * a.row_warps + warp % a.row_warps, parts = a.splits * a.row_warps;
    for (u32 row = part * TILE; row < end; row += parts * TILE) {
        float x[32];
#pragma unroll
        for (u32 r = 0; r < TILE; r++) {
            const u64 offset = (u64)min(row + r, end - 1) * a.row_stride;
            float dot[SLOTS];
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++) {
                const float element = load((const T*)(k[c] + offset));
#pragma unroll
                for (u32 i = 0; i < SLOTS; i++) dot[i] = c == 0 ? q[i][c] * element : dot[i] + q[i][c] * element;
            }
#pragma unroll
            for (u32 i = 0; i < SLOTS; i++) x[i * TILE + r] = dot[i];
        }
        transposing_sum<16>(x, lane);
        const float score = row + lane % TILE < limit ? x[0] : HIDDEN;

        float peak = score;
#pragma unroll
        for (u32 half = TILE / 2; half > 0; half /= 2) peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, half));
        peak = fmaxf(peak, top);
        const float fade = exp2_approx(top - peak), weight = exp2_approx(score - peak);
        total = total * fade + weight;
        top = peak;

#pragma unroll
        for (u32 i = 0; i < SLOTS; i++) {
            const float f = __shfl_sync(ALL_LANES, fade, i * TILE);
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++) sum[i][c] *= f;
        }
#pragma unroll 8
        for (u32 r = 0; r < TILE; r++) {
            const u64 offset = (u64)min(row + r, end - 1) * a.row_stride;
            float w[SLOTS];
#pragma unroll
            for (u32 i = 0; i < SLOTS; i++) w[i] = __shfl_sync(ALL_LANES, weight, i * TILE + r);
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++) {
                const float element = load((const T*)(v[c] + offset));
#pragma unroll
                for (u32 i = 0; i < SLOTS; i++) sum[i][c] += w[i] * element;
            }
        }
    }
#pragma unroll
    for (u32 half = TILE / 2; half > 0; half /= 2) total += __shfl_xor_sync(ALL_LANES, total, half);

    // Every lane learns top and total of every slot of its warp.
    float tops[SLOTS], totals[SLOTS];
#pragma unroll
    for (u32 i = 0; i < SLOTS; i++) {
        tops[i] = __shfl_sync(ALL_LANES, top, i * TILE);
        totals[i] = __shfl_sync(ALL_LANES, total, i * TILE);
    }

    if (a.row_warps > 1) {
        extern __shared__ float shared[];  // (warp, slot, 2 + 32 * CHUNKS): top, total, sums
        const u32 size = 2 + 32 * CHUNKS;
        const bool leader = warp % a.row_warps == 0;
        if (!leader) {
#pragma unroll
            for (u32 i = 0; i < SLOTS; i++) {
                float* mine = shared + (warp * SLOTS + i) * size;
                if (lane == 0) {
                    mine[0] = tops[i];
                    mine[1] = totals[i];
                }
#pragma unroll
                for (u32 c = 0; c < CHUNKS; c++) mine[2 + 32 * c + lane] = sum[i][c];
            }
        }
        __syncthreads();
        if (!leader) return;
        for (u32 other = warp + 1; other < warp + a.row_warps; other++) {
#pragma unroll
            for (u32 i = 0; i < SLOTS; i++) {
                const float* theirs = shared + (other * SLOTS + i) * size;
                const float peak = fmaxf(tops[i], theirs[0]);
                const float fade = exp2_approx(tops[i] - peak), weight = exp2_approx(theirs[0] - peak);
                totals[i] = totals[i] * fade + theirs[1] * weight;
                tops[i] = peak;
#pragma unroll
                for (u32 c = 0; c < CHUNKS; c++) sum[i][c] = sum[i][c] * fade + theirs[2 + 32 * c + lane] * weight;
            }
        }
    }

#pragma unroll
    for (u32 i = 0; i < SLOTS; i++) {
        if (first + i >= slots) return;
        const u64 query = s.first_query + query_of(i);
        const u32 head = head_of(i);
        if (a.splits > 1) {
            f32* to = (f32*)a.partial + ((query * a.heads + head) * a.splits + split) * (2 + a.head_size);
            if (lane == 0) {
                to[0] = tops[i];
                to[1] = totals[i];
            }
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++)
                if (lane + 32 * c < a.head_size) to[2 + lane + 32 * c] = sum[i][c];
        } else {
            T* to = (T*)(a.out + query * a.out_stride) + head * a.head_size;
            const float inverse = 1.0f / totals[i];
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++)
                if (lane + 32 * c < a.head_size) store(to + lane + 32 * c, sum[i][c] * inverse);
        }
    }
}

// One block for each query row (x) and head (y), one thread for each column.
template <class T>
__device__ inline void merge(const Attention& a) {
    const u32 column = threadIdx.x, head = blockIdx.y;
    const u64 query = blockIdx.x;
    if (column >= a.head_size) return;
    const u32 size = 2 + a.head_size;
    const f32* from = (const f32*)a.partial + (query * a.heads + head) * a.splits * size;
    float top = LOWEST, total = 0.0f, sum = 0.0f;
    for (u32 i = 0; i < a.splits; i++) top = fmaxf(top, load(from + i * size));
    for (u32 i = 0; i < a.splits; i++) {
        const float weight = exp2_approx(load(from + i * size) - top);
        total += load(from + i * size + 1) * weight;
        sum += load(from + i * size + 2 + column) * weight;
    }
    store((T*)(a.out + query * a.out_stride) + head * a.head_size + column, sum / total);
}

#define ATTEND(CHUNKS, COLUMNS, SLOTS) \
    extern "C" __global__ void __launch_bounds__(128) attend_d##COLUMNS##_x##SLOTS(const Attention a) { attend<ELEMENT, CHUNKS, SLOTS>(a); }
ATTEND(2, 64, 1)
ATTEND(2, 64, 4)
ATTEND(4, 128, 1)
ATTEND(4, 128, 4)
extern "C" __global__ void __launch_bounds__(128) merge_splits(const Attention a) { merge<ELEMENT>(a); }

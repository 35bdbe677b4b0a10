// The parts of GPT-2 that are neither a matrix product (cuBLAS) nor attention (crates/vattn/kernels): embeddings, layer
// norm, biases with what follows them, and the rows of keys and values into the cache. All in f32.
//
// It includes no header. crates/vattn/kernels/make_ptx.py compiles it; the PTX that comes out is what ships.

typedef unsigned long long u64;
typedef unsigned int u32;

#define ALL_LANES 0xffffffffu

// out (rows, width) = wte[id] + wpe[position]. places (rows, 2): id and position. A block for each row.
extern "C" __global__ void embed(float* out, const u32* places, const float* wte, const float* wpe, u32 width) {
    const u32 row = blockIdx.x;
    const float* token = wte + (u64)places[2 * row] * width;
    const float* position = wpe + (u64)places[2 * row + 1] * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[(u64)row * width + i] = token[i] + position[i];
}

__device__ inline float warp_sum(float x) {
#pragma unroll
    for (u32 half = 16; half > 0; half /= 2) x += __shfl_xor_sync(ALL_LANES, x, half);
    return x;
}

// out (count, width): row i is the layer norm of row picked[i] of x, or of row i where picked is null. A warp for each row,
// two passes: the mean first, then the variance around it.
extern "C" __global__ void layer_norm(
    float* out, const float* x, const u32* picked, const float* weight, const float* bias, u32 count, u32 width, float epsilon
) {
    const u32 lane = threadIdx.x % 32, row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= count) return;  // the whole warp
    const float* from = x + (u64)(picked ? picked[row] : row) * width;
    float sum = 0.0f;
    for (u32 i = lane; i < width; i += 32) sum += from[i];
    const float mean = warp_sum(sum) / width;
    float squares = 0.0f;
    for (u32 i = lane; i < width; i += 32) squares += (from[i] - mean) * (from[i] - mean);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / width + epsilon);
    for (u32 i = lane; i < width; i += 32) out[(u64)row * width + i] = (from[i] - mean) * scale * weight[i] + bias[i];
}

// Every element of out (rows, width) and the element of bias (width) of its column. A thread for each element.
template <class F>
__device__ inline void with_bias(float* out, const float* bias, u32 count, u32 width, F f) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = f(out[i], bias[i % width]);
}
extern "C" __global__ void bias_add(float* out, const float* bias, u32 count, u32 width) {
    with_bias(out, bias, count, width, [](float x, float b) { return x + b; });
}
extern "C" __global__ void bias_gelu_tanh(float* out, const float* bias, u32 count, u32 width) {
    with_bias(out, bias, count, width, [](float x, float b) {
        x += b;
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    });
}
extern "C" __global__ void bias_gelu_erf(float* out, const float* bias, u32 count, u32 width) {
    with_bias(out, bias, count, width, [](float x, float b) {
        x += b;
        return 0.5f * x * (1.0f + erff(0.70710678118654752f * x));
    });
}

// One sequence of the batch, as the attention kernel reads it: `Sequence` in attention.cu.
struct Sequence {
    u64 k, v;
    u32 first_query, queries, rows, reserved;
};

// The keys and values of qkv (rows of the batch, 3, width) to their rows of the cache, the last `queries` rows of each
// sequence. Blocks (x) share the rows of a sequence (y). Row strides of the cache in bytes.
extern "C" __global__ void append(const Sequence* sequences, const float* qkv, u32 width, u32 row_stride) {
    const Sequence s = sequences[blockIdx.y];
    for (u32 query = blockIdx.x; query < s.queries; query += gridDim.x) {
        const float* from = qkv + (u64)(s.first_query + query) * 3 * width;
        const u64 offset = (u64)(s.rows - s.queries + query) * row_stride;
        float* k = (float*)(s.k + offset);
        float* v = (float*)(s.v + offset);
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            k[i] = from[width + i];
            v[i] = from[2 * width + i];
        }
    }
}

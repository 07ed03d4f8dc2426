// Kernels around nvCOMP: find the blocks of compressed frames, check them, un-shuffle, weigh. Compiled by NVRTC at
// first use; the #defines in front (columns of FrameBatch.index, status codes) come from Python, which owns them.
//
// A frame's data are cut into blocks. Only the wanted ones are decoded, back to back into the frame's place in
// `decoded`, `stride` bytes a frame: `place[b]` says which of the wanted blocks block b is, -1 that it is none.
// All blocks of a frame have `block` bytes but the last. Arguments have 8 bytes each.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

__device__ __forceinline__ u32 load_u32_be(const u8* at) {
    return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

__device__ __forceinline__ u64 load_u64_be(const u8* at) {
    return (u64)load_u32_be(at) << 32 | load_u32_be(at + 4);
}

// What every frame must be.
#define LAYOUT i64 frame_rows, i64 frame_cols, i64 tag, i64 algorithm, i64 elem_size, i64 total, i64 block, \
               i64 granule, i64 blocks

// One thread a frame, those of `rows`, or of consecutive ones from `first` on: block headers are a chain, each says
// where the next one is. Writes where each of the frame's `blocks` is, for stored ones with a negative size, and copies
// the raw pixels behind the last to `leftover_at` of its place (-1: nobody wants them). Clears `flagged`, for `weigh`.
extern "C" __global__ void find_blocks(const u8* buffer, i64 capacity, const i64* index, const i64* rows, i64 first,
                                       i64 n, LAYOUT, u8* decoded, i64 stride, i64 leftover_at, const u8** found_at,
                                       i64* found_bytes, int* status, u8* flagged) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    flagged[i] = 0;
    const i64* row = index + (rows ? rows[i] : first + i) * COLUMNS;
    found_at += i * blocks;
    found_bytes += i * blocks;
    i64 offset = row[BLOB_OFFSET], length = row[BLOB_LENGTH];
    int found = OK;
    if (row[STATUS] != IMAGE) found = NOT_AN_IMAGE;
    else if (offset < 0 || length < 0 || offset > capacity || length > capacity - offset) found = OUTSIDE_BUFFER;
    else if (row[ROWS] != frame_rows || row[COLS] != frame_cols) found = WRONG_SHAPE;
    // 68 is 64 (u8) with clamped arithmetic: the same pixels
    else if (row[ARRAY_TAG] != tag && !(tag == 64 && row[ARRAY_TAG] == 68)) found = WRONG_DTYPE;
    else if (row[ALGORITHM] != algorithm || row[ELEM_SIZE] != elem_size) found = OTHER_LAYOUT;
    if (found != OK) { status[i] = found; return; }

    const u8* read = buffer + offset;
    const u8* end = read + length;
    if (algorithm == RAW) {
        found_at[0] = read;
        found_bytes[0] = -length;
        status[i] = length == total ? OK : WRONG_LENGTH;
        return;
    }
    if (length < 12) { status[i] = BLOB_TOO_SHORT; return; }
    if (load_u64_be(read) != (u64)total) { status[i] = WRONG_TOTAL; return; }
    i64 its_block = load_u32_be(read + 8);
    if (its_block == 0 || its_block >= (1ll << 31) || its_block % granule) { status[i] = BAD_BLOCK_SIZE; return; }
    if (its_block != block) { status[i] = OTHER_LAYOUT; return; }
    read += 12;
    i64 left = total;
    for (i64 b = 0; left >= granule; ++b) {
        i64 size = min(left, block);
        size -= size % granule;
        if (end - read < 4) { found = BLOCK_TRUNCATED; break; }
        i64 compressed = load_u32_be(read);
        read += 4;
        if (compressed > end - read) { found = BLOCK_TRUNCATED; break; }
        found_at[b] = read;
        // As large as what it holds: stored.
        found_bytes[b] = algorithm == LZ4 && compressed == size ? -size : compressed;
        read += compressed;
        left -= size;
    }
    if (found == OK && end - read != left) found = LEFT_OVER;
    if (found == OK && leftover_at >= 0)
        for (i64 k = 0; k < left; ++k) decoded[i * stride + leftover_at + k] = read[k];
    status[i] = found;
}

__device__ __forceinline__ i64 block_size(i64 b, i64 total, i64 block, i64 granule) {
    i64 size = min(total - b * block, block);
    return size - size % granule;
}

// Bytes that one LZ4 block decodes to, -1 if it is none or takes more than `size`
// (github.com/lz4/lz4, doc/lz4_Block_format.md, with its rules for the end of a block).
__device__ i64 walk_lz4(const u8* read, i64 length, i64 size) {
    const u8* end = read + length;
    i64 out = 0;
    while (true) {
        if (read >= end) return -1;
        u32 token = *read++;
        i64 literals = token >> 4, match = token & 15;
        if (literals == 15)
            for (u32 more = 255; more == 255; literals += more) {
                if (read >= end) return -1;
                more = *read++;
            }
        if (literals > end - read || literals > size - out) return -1;
        read += literals;
        out += literals;
        if (read == end) return out;
        if (end - read < 2) return -1;
        i64 offset = read[0] | read[1] << 8;
        read += 2;
        if (offset == 0 || offset > out) return -1;
        if (match == 15)
            for (u32 more = 255; more == 255; match += more) {
                if (read >= end) return -1;
                more = *read++;
            }
        match += 4;
        if (match > size - LAST_LITERALS - out || out > size - LAST_MATCH) return -1;
        out += match;
    }
}

// Bytes that one Zstandard frame says it decodes to, -1 if its headers are wrong (RFC 8878, section 3.1.1). What is
// inside compressed blocks is not looked at.
__device__ i64 walk_zstd(const u8* read, i64 length) {
    const u8* end = read + length;
    if (length < 6 || load_u32_be(read) != 0x28B52FFD) return -1;
    u32 descriptor = read[4];
    int size_flag = descriptor >> 6;
    bool single = descriptor >> 5 & 1;
    if (descriptor & 0x0B) return -1;  // reserved, or a dictionary, which nobody has
    read += single ? 5 : 6;
    int size_bytes = size_flag ? 1 << size_flag : single;
    if (!size_bytes || end - read < size_bytes) return -1;
    u64 content = size_flag == 1 ? 256 : 0;
    for (int k = 0; k < size_bytes; ++k) content += (u64)read[k] << (8 * k);
    read += size_bytes;
    u64 plain = 0;  // bytes of blocks that say themselves how many they decode to
    bool compressed = false;
    while (true) {
        if (end - read < 3) return -1;
        u32 header = read[0] | read[1] << 8 | read[2] << 16;
        u32 type = header >> 1 & 3;
        i64 bytes = type == 1 ? 1 : header >> 3;
        read += 3;
        if (type == 3 || header >> 3 > 128 << 10 || bytes > end - read) return -1;
        read += bytes;
        compressed |= type == 2;
        plain += type == 2 ? 0 : header >> 3;
        if (header & 1) break;
    }
    read += descriptor & 4;  // a checksum
    if (plain > content || (!compressed && plain != content)) return -1;
    return read == end && content < 1ull << 31 ? (i64)content : -1;
}

// nvCOMP writes behind the place of a block that says it is longer than it is. So every block is walked before it is
// decoded, those that nobody wants too: a frame that a full decoder refuses gives no number. One thread a block.
extern "C" __global__ void check_blocks(i64 n, i64 blocks, i64 total, i64 block, i64 granule, const u8** found_at,
                                        const i64* found_bytes, i64 zstd, int* status) {
    i64 entry = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (entry >= n * blocks) return;
    i64 i = entry / blocks;
    // Another block of the frame may have been refused meanwhile: either reason will do.
    if (status[i] != OK || found_bytes[entry] < 0) return;
    i64 size = block_size(entry - i * blocks, total, block, granule);
    i64 decoded = zstd ? walk_zstd(found_at[entry], found_bytes[entry])
                       : walk_lz4(found_at[entry], found_bytes[entry], size);
    if (decoded != size) status[i] = decoded < 0 ? BAD_LZ4 : SHORT_BLOCK;
}

// The tables that nvCOMP takes, `wanted` entries a frame; one thread a block. Entries of bad frames and of stored
// blocks decode `nothing`, an empty block.
extern "C" __global__ void list_blocks(i64 n, i64 blocks, i64 total, i64 block, i64 granule, const u8** found_at,
                                       const i64* found_bytes, const int* status, const int* place, i64 wanted,
                                       u8* decoded, i64 stride, const u8* nothing, i64 nothing_bytes,
                                       const u8** source, u64* source_bytes, u8** target, u64* target_bytes) {
    i64 found = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (found >= n * blocks) return;
    i64 i = found / blocks, b = found - i * blocks;
    if (place[b] < 0) return;
    i64 entry = i * wanted + place[b];
    bool good = status[i] == OK && found_bytes[found] > 0;
    source[entry] = good ? found_at[found] : nothing;
    source_bytes[entry] = good ? found_bytes[found] : nothing_bytes;
    target[entry] = decoded + i * stride + place[b] * block;
    target_bytes[entry] = block_size(b, total, block, granule);
}

// What nvCOMP says of a frame's blocks; one thread a frame.
extern "C" __global__ void judge(i64 n, i64 blocks, i64 wanted, const int* place, const i64* found_bytes,
                                 const u64* target_bytes, const u64* actual, const int* block_status, int* status) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || status[i] != OK) return;
    for (i64 b = 0; b < blocks; ++b) {
        i64 entry = i * wanted + place[b];
        if (place[b] < 0 || found_bytes[i * blocks + b] < 0) continue;
        if (block_status[entry] != 0) status[i] = BAD_LZ4;
        else if (actual[entry] != target_bytes[entry]) status[i] = SHORT_BLOCK;
    }
}

// Blocks that are not compressed; one thread block a frame.
extern "C" __global__ void copy_stored(i64 blocks, i64 block, const u8** found_at, const i64* found_bytes,
                                       const int* status, const int* place, u8* decoded, i64 stride) {
    i64 i = blockIdx.x;
    if (status[i] != OK) return;
    for (i64 b = 0; b < blocks; ++b) {
        const u8* from = found_at[i * blocks + b];
        u8* to = decoded + i * stride + place[b] * block;
        if (place[b] >= 0)
            for (i64 k = threadIdx.x; k < -found_bytes[i * blocks + b]; k += blockDim.x) to[k] = from[k];
    }
}

// Zeros for the pixels of frames without numbers; one thread block a frame. Places begin at multiples of 64 bytes.
extern "C" __global__ void blank_bad(i64 nbytes, i64 stride, const int* status, u8* decoded) {
    i64 i = blockIdx.x;
    if (status[i] == OK) return;
    u64* words = (u64*)(decoded + i * stride);
    for (i64 k = threadIdx.x; k < (nbytes + 7) / 8; k += blockDim.x) words[k] = 0;
}

// Byte e of the result has bit e of every byte of x (Warren, Hacker's Delight, section 7-3).
__device__ __forceinline__ u64 transpose_8x8(u64 x) {
    u64 t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ t ^ (t << 28);
}

// Bit planes to elements, for what nvCOMP does not un-shuffle itself. One thread for 8 elements: `groups` of them a
// frame, whose planes lie in `planes` as the elements will in `decoded`.
extern "C" __global__ void unshuffle(const u8* planes, u8* decoded, i64 n, i64 groups, i64 stride, i64 block,
                                     i64 elem_size) {
    i64 group = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    i64 i = blockIdx.y;
    if (i >= n || group >= groups) return;
    i64 per_block = block / (8 * elem_size);
    i64 k = group / per_block, column = group - k * per_block;
    i64 plane_bytes = min(per_block, groups - k * per_block);
    const u8* from = planes + i * stride + k * block + column;
    u8* to = decoded + i * stride + k * block + column * 8 * elem_size;
    for (int byte = 0; byte < elem_size; ++byte) {
        u64 bits = 0;
        for (int bit = 0; bit < 8; ++bit) bits |= (u64)from[(8 * byte + bit) * plane_bytes] << (8 * bit);
        bits = transpose_8x8(bits);
        for (int e = 0; e < 8; ++e) to[e * elem_size + byte] = (u8)(bits >> (8 * e));
    }
}

// Sums of decoded pixels under weight maps: a thread block for FRAMES frames and one map.
//
// Maps are lists of the pixels that have a weight (`starts` (maps + 1,): where each begins): detectors cover little of
// a frame, or little of what other detectors cover. sums is (n, maps). Integers are exact as long as every partial sum
// fits SUM: 2^53 for double, 2^63 for i64; RESULT is what they are returned as. Pixels hold no count at or above `limit`
// (bit 0 of `rule`), or where they are NaN (bit 1): they are left out unless `counted`, and `saturated` (n, maps) says
// whether there were any.
template <typename PIXEL, typename SUM, typename RESULT, int FRAMES>
__device__ __forceinline__ void weigh(const u8* decoded, i64 stride, i64 n, i64 maps, const i64* starts,
                                      const int* places, const SUM* weights, const int* status, i64 rule,
                                      i64 limit, i64 counted, RESULT* sums, u8* saturated, u8* flagged) {
    __shared__ SUM of_warps[32][FRAMES];
    __shared__ int hits_of_warps[32];
    // Maps of the same frames run together: what one reads is in the cache for the next.
    i64 i = (i64)blockIdx.y * FRAMES, map = blockIdx.x;
    const PIXEL* frame[FRAMES];
    SUM total[FRAMES];
    int hits = 0;  // a bit a frame
    const bool limited = rule & 1, nan = rule & 2, all = counted;
    const PIXEL cap = (PIXEL)limit;
#pragma unroll
    for (int f = 0; f < FRAMES; ++f) {
        frame[f] = (const PIXEL*)(decoded + min(i + f, n - 1) * stride);
        total[f] = 0;
    }
#pragma unroll 2
    for (i64 k = starts[map] + threadIdx.x; k < starts[map + 1]; k += blockDim.x) {
        int place = places[k];
        SUM weight = weights[k];
#pragma unroll
        for (int f = 0; f < FRAMES; ++f) {
            PIXEL pixel = frame[f][place];
            // NaN is the float that differs from itself; it holds no data as an integer's maximum does.
            bool empty = (limited & (pixel >= cap)) | (nan & (pixel != pixel));
            // A branch that is seldom taken costs less than arithmetic on every pixel.
            if (empty) hits |= 1 << f;
            if (!empty | all) total[f] += (SUM)pixel * weight;
        }
    }
#pragma unroll
    for (int f = 0; f < FRAMES; ++f)
        for (int away = 16; away; away /= 2) total[f] += __shfl_down_sync(0xffffffff, total[f], away);
    for (int away = 16; away; away /= 2) hits |= __shfl_down_sync(0xffffffff, hits, away);
    if (threadIdx.x % 32 == 0) {
        hits_of_warps[threadIdx.x / 32] = hits;
#pragma unroll
        for (int f = 0; f < FRAMES; ++f) of_warps[threadIdx.x / 32][f] = total[f];
    }
    __syncthreads();
    int f = threadIdx.x;
    if (f < FRAMES && i + f < n) {
        SUM sum = 0;
        hits = 0;
        for (int warp = 0; warp < blockDim.x / 32; ++warp) {
            sum += of_warps[warp][f];
            hits |= hits_of_warps[warp];
        }
        bool good = status[i + f] == OK;
        sums[(i + f) * maps + map] = good ? (RESULT)sum : (RESULT)0;
        bool hit = good && hits >> f & 1;
        saturated[(i + f) * maps + map] = hit;
        if (hit) flagged[i + f] = 1;  // all maps write the same
    }
}

// Sum over frames: for each pixel, adds to `total` what the frames hold there, to `valid` how many of them hold a count.
//
// Frames are those of `take`, or `n` from `first` on, `stride` bytes apart; a thread block adds `chunk` of them at
// blockDim.x * PIXELS_A_THREAD pixels. Neighbouring threads read neighbouring pixels, several loads at once; sums leave
// the registers once a chunk. Pixels at or above `limit` are left out where `limited`, NaN always.
template <typename PIXEL, typename SUM>
__device__ __forceinline__ void add_frames(const u8* patterns, i64 stride, const i64* take, i64 first, i64 n,
                                           i64 pixels, i64 chunk, i64 limited, i64 limit, SUM* total, u64* valid) {
    i64 begin = (i64)blockIdx.x * blockDim.x * PIXELS_A_THREAD + threadIdx.x;
    i64 start = (i64)blockIdx.y * chunk, stop = min(start + chunk, n);
    const PIXEL cap = (PIXEL)limit;
    SUM sums[PIXELS_A_THREAD];
    u32 counts[PIXELS_A_THREAD];
#pragma unroll
    for (int k = 0; k < PIXELS_A_THREAD; ++k) {
        sums[k] = 0;
        counts[k] = 0;
    }
#pragma unroll 2
    for (i64 f = start; f < stop; ++f) {
        const PIXEL* frame = (const PIXEL*)(patterns + (take ? take[f] : first + f) * stride);
#pragma unroll
        for (int k = 0; k < PIXELS_A_THREAD; ++k) {
            i64 at = begin + k * blockDim.x;
            if (at < pixels) {
                PIXEL pixel = frame[at];
                bool counts_here = !(limited && pixel >= cap) && pixel == pixel;
                sums[k] += counts_here ? (SUM)pixel : (SUM)0;
                counts[k] += counts_here;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < PIXELS_A_THREAD; ++k) {
        i64 at = begin + k * blockDim.x;
        if (at < pixels) {
            atomicAdd(total + at, sums[k]);
            atomicAdd(valid + at, (u64)counts[k]);
        }
    }
}

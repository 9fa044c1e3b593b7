// Products of matrices that are packed in words: C[m][n] = sum over words w of A[m][w] . B[w][n].
//
// A left factor is any row-major matrix whose rows run along the reduced dimension. A right factor is a `Right`, and a
// matrix becomes one in two ways: `pack_pairs` where the reduced dimension counts its rows, `pack_columns` where it
// runs along them. Products come in tiles of sums, which stay in registers (with AMX in the first cache) for what
// follows.

#pragma once

#include <type_traits>

#include "vectors.h"

namespace {

constexpr long PANEL = 2 * LANES;  // columns of a tile
#ifndef __AMX_BF16__               // a compiler that does not know them
#undef AMX
#endif
#if defined(AMX)
constexpr long ROWS = 32;  // of a tile: two by two AMX tiles
#elif defined(__AVX512F__)
constexpr long ROWS = 8;  // with two vectors each, 16 of 32 registers hold sums
#else
constexpr long ROWS = 4;
#endif

#define INLINE inline __attribute__((always_inline))

// A right factor. Columns lie in panels, PANEL of them, so that a tile reads its words one after the other.
struct Right {
    int32_t* data;
    long stride, panel;  // from a word of the reduced dimension to the next, from a panel to the next

    int32_t* at(long w, long n) const { return data + n / PANEL * panel + w * stride + n % PANEL; }
};

// In panels, each of `depth` words.
inline Right in_panels(int32_t* data, long depth) { return {data, PANEL, PANEL * depth}; }
inline Right in_panels(Buffer& buffer, long depth, long columns) {
    return in_panels(buffer.words((columns + PANEL - 1) / PANEL * PANEL * depth), depth);
}
// Word for word in rows `stride` apart.
inline Right in_rows(int32_t* data, long stride) { return {data, stride, PANEL}; }

#ifdef AMX
// The tile registers, for as long as this exists; other libraries set them up for themselves.
struct Tiles {
    Tiles() {
        alignas(64) uint8_t config[64] = {1};
        for (int i = 0; i < 8; i++) config[16 + 2 * i] = 64, config[48 + i] = 16;  // bytes of a row, rows
        asm volatile("" ::"r"(config) : "memory");  // GCC's intrinsics do not say all that they read
        _tile_loadconfig(config);
    }
    ~Tiles() { _tile_release(); }
};

// Tiles 0 to 3 += words [0, 16) of A . B, whose strides are in bytes.
template <bool LOW, bool WIDE>
INLINE void multiply_tiles(const int32_t* a, long a_bytes, const int32_t* b, long b_bytes) {
    asm volatile("" ::: "memory");
    _tile_loadd(4, a, a_bytes);
    if constexpr (LOW) _tile_loadd(5, a + 4 * a_bytes, a_bytes);
    _tile_loadd(6, b, b_bytes);
    if constexpr (WIDE) _tile_loadd(7, b + LANES, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (WIDE) _tile_dpbf16ps(1, 4, 7);
    if constexpr (LOW) _tile_dpbf16ps(2, 5, 6);
    if constexpr (LOW && WIDE) _tile_dpbf16ps(3, 5, 7);
}

// c = sum over `depth` words of A[m] . B[n]; strides in words.
template <long M, long N>
INLINE void multiply(Floats (&c)[M][N], const int32_t* a, long a_stride, const int32_t* b, long b_stride, long depth) {
    static_assert((M == 16 || M == 32) && (N == 1 || N == 2));
    constexpr bool LOW = M > 16, WIDE = N > 1;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    long w = 0;
    for (; w + 16 <= depth; w += 16) multiply_tiles<LOW, WIDE>(a + w, 4 * a_stride, b + w * b_stride, 4 * b_stride);
    if (w < depth) {  // what does not fill a tile, with zeros beside it
        alignas(64) int32_t left[M][16] = {}, right[16][N * LANES] = {};
        for (long m = 0; m < M; m++) std::memcpy(left[m], a + m * a_stride + w, 4 * (depth - w));
        for (long i = w; i < depth; i++) std::memcpy(right[i - w], b + i * b_stride, sizeof right[0]);
        multiply_tiles<LOW, WIDE>(left[0], sizeof left[0], right[0], sizeof right[0]);
    }
    constexpr long c_bytes = sizeof c[0];
    _tile_stored(0, c, c_bytes);
    if constexpr (WIDE) _tile_stored(1, &c[0][1], c_bytes);
    if constexpr (LOW) _tile_stored(2, c[16], c_bytes);
    if constexpr (LOW && WIDE) _tile_stored(3, &c[16][1], c_bytes);
}
#else
struct Tiles {};

template <long M, long N>
INLINE void multiply(Floats (&c)[M][N], const int32_t* a, long a_stride, const int32_t* b, long b_stride, long depth) {
    for (long m = 0; m < M; m++)
        for (long n = 0; n < N; n++) c[m][n] = Floats{};
    for (long w = 0; w < depth; w++) {
        Words row[N];
        for (long n = 0; n < N; n++) row[n] = load<Words>(b + w * b_stride + n * LANES);
        for (long m = 0; m < M; m++)
            for (long n = 0; n < N; n++) c[m][n] = dot(c[m][n], a[m * a_stride + w], row[n]);
    }
}
#endif

template <long M, long N>
constexpr long height(const Floats (&)[M][N]) {
    return M;
}
template <long M, long N>
constexpr long width(const Floats (&)[M][N]) {
    return N;
}

// A tile into rows `stride` apart.
template <long M, long N>
INLINE void store_sums(const Floats (&c)[M][N], float* to, long stride) {
    for (long i = 0; i < M; i++)
        for (long j = 0; j < N; j++) store(to + i * stride + j * LANES, c[i][j]);
}

// use(m, c) with each tile c of rows [from, until) of a panel of N vectors.
template <long M, long N, class Use>
INLINE void panel_product(const int32_t* a, long a_stride, const int32_t* b, long b_stride, long depth, long from,
                          long until, Use use) {
    for (long m = from; m < until; m += M) {
        Floats c[M][N];
        multiply(c, a + m * a_stride, a_stride, b, b_stride, depth);
        use(m, c);
    }
}

// use(m, n, c) with each tile c[rows][vectors] of A . B; `rows` is a multiple of 16, `columns` of LANES.
template <class Use>
INLINE void product(const void* a, long a_stride, Right b, long depth, long rows, long columns, Use use) {
    const int32_t* left = static_cast<const int32_t*>(a);
    const long most = rows / ROWS * ROWS;
    const auto panel = [&](long n, auto vectors) __attribute__((always_inline)) {
        constexpr long N = decltype(vectors)::value;
        const auto use_here = [&](long m, auto& c) __attribute__((always_inline)) { use(m, n, c); };
        panel_product<ROWS, N>(left, a_stride, b.at(0, n), b.stride, depth, 0, most, use_here);
        if constexpr (ROWS > 16)
            panel_product<16, N>(left, a_stride, b.at(0, n), b.stride, depth, most, rows, use_here);
    };
    const long even = columns / PANEL * PANEL;
    for (long n = 0; n < even; n += PANEL) panel(n, std::integral_constant<long, 2>());
    if (even < columns) panel(even, std::integral_constant<long, 1>());
}

// Sums C[m][n] of fp32 in panels, each of `rows` rows: a tile of them lies in one piece.
struct Sums {
    float* data;
    long rows;

    float* at(long m, long n) const { return data + n / PANEL * PANEL * rows + m * PANEL + n % PANEL; }
};

// Zeros.
inline Sums sums_of(Buffer& buffer, long rows, long columns) {
    const long n = rows * ((columns + PANEL - 1) / PANEL * PANEL);
    const Sums sums = {buffer.floats(n), rows};
    std::memset(sums.data, 0, sizeof(float) * n);
    return sums;
}

// to[m][n] += A . B, for columns from `first` on.
inline void add_to(const Sums& to, long first, const int32_t* a, long a_stride, Right b, long depth, long rows,
                   long columns) {
    product(
        a, a_stride, b, depth, rows, columns, [&](long m, long n, auto& c) __attribute__((always_inline)) {
            float* at = to.at(m, first + n);
            for (long i = 0; i < height(c); i++)
                for (long j = 0; j < width(c); j++)
                    store(at + i * PANEL + j * LANES, load<Floats>(at + i * PANEL + j * LANES) + c[i][j]);
        });
}

// Of rows X[t] of `width` elements, `stride` apart, the right factor [t words][k]; rows from `length` up to `padded`
// are zero. `width` is a multiple of LANES, `padded` even.
inline void pack_pairs(const Element* data, long stride, long length, long padded, long width, Right to) {
    for (long t = 0; t < padded; t += 2)
        for (long k = 0; k < width; k += LANES) {
            const Floats first = t < length ? load_row(data + t * stride + k) : Floats{};
            const Floats second = t + 1 < length ? load_row(data + (t + 1) * stride + k) : Floats{};
            store_pairs(to.at(t / PER_WORD, k), to.stride, first, second);
        }
}

// Of `length` dense rows, a multiple of 32, X^T as a left factor [k][t words].
inline void turn(const Element* data, long length, long width, int32_t* to, Buffer buffer) {
    int32_t* pairs = buffer.words(length / PER_WORD * width);
    pack_pairs(data, width, length, length, width, in_rows(pairs, width));
    transpose(pairs, length / PER_WORD, width, to, length / PER_WORD);
}

// A weight W (d_out, d_in) in fp32. Where `halves`, its rows are two halves, of which the packed order takes LANES rows
// in turns: a tile then holds the same features of both.
struct Weight {
    const float* data;
    long d_out, d_in;
    bool halves;

    long row(long n) const {
        if (!halves) return n;
        return n / PANEL * LANES + n % LANES + (n % PANEL < LANES ? 0 : d_out / 2);
    }
    const float* at(long n) const { return data + row(n) * d_in; }
};

// For y = x W^T: [d_in words][d_out].
inline Right pack_columns(const Weight& weight, Buffer& buffer) {
    const long words = weight.d_in / PER_WORD;
    const Right to = in_panels(buffer, words, weight.d_out);
    for (long n = 0; n < weight.d_out; n += LANES)
        for (long w = 0; w < words; w += LANES) {
            Words x[LANES];
            for (long i = 0; i < LANES; i++) {
                const float* from = weight.at(n + i) + w * PER_WORD;
                alignas(64) int32_t row[2 * LANES] = {};
                store_two(row, load<Floats>(from),
                          w * PER_WORD + LANES < weight.d_in ? load<Floats>(from + LANES) : Floats{});
                x[i] = load<Words>(row);
            }
            transpose(x);
            for (long i = 0; i < LANES && w + i < words; i++) store(to.at(w + i, n), x[i]);
        }
    return to;
}

// For dx = dy W: [d_out words][d_in].
inline Right pack_pairs(const Weight& weight, Buffer& buffer) {
    const Right to = in_panels(buffer, weight.d_out / PER_WORD, weight.d_in);
    for (long n = 0; n < weight.d_out; n += 2)
        for (long k = 0; k < weight.d_in; k += LANES)
            store_pairs(to.at(n / PER_WORD, k), to.stride, load<Floats>(weight.at(n) + k),
                        load<Floats>(weight.at(n + 1) + k));
    return to;
}

// The gradient of a weight, from sums [d_out][d_in].
inline void unpack(const Sums& sums, const Weight& weight, float* to) {
    for (long n = 0; n < weight.d_out; n++)
        for (long k = 0; k < weight.d_in; k += LANES) store(to + n * weight.d_in + k, load<Floats>(sums.at(n, k)));
}

// emit(n, k, vector along k) of the transpose of sums [k][n].
template <class Emit>
inline void transposed(const Sums& sums, long columns, Emit emit) {
    for (long n = 0; n < columns; n += LANES)
        for (long k = 0; k < sums.rows; k += LANES) {
            Words x[LANES];
            for (long i = 0; i < LANES; i++) x[i] = load<Words>(sums.at(k + i, n));
            transpose(x);
            for (long i = 0; i < LANES; i++) emit(n + i, k, bits<Floats>(x[i]));
        }
}

// The gradient of a weight, from sums [d_in][d_out] in the packed order.
inline void unpack_transposed(const Sums& sums, const Weight& weight, float* to) {
    transposed(sums, weight.d_out, [&](long n, long k, Floats x) { store(to + weight.row(n) * weight.d_in + k, x); });
}

}  // namespace

// Vectors of one machine register, whichever that is, and products of matrices that are packed in words.
//
// Every product is C[m][n] = sum over words w of A[m][w] . B[w][n]. A word is 32 bits along the reduced dimension: one
// fp32, or where BF16 is defined two neighbouring bf16, which AVX512-BF16 multiplies and adds at once. Sums are fp32.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>
#ifdef BF16
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr long LANES = 16, ROWS = 8;  // ROWS of a tile: with two vectors each, 16 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr long LANES = 8, ROWS = 4;
#else
constexpr long LANES = 4, ROWS = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));

template <class To, class From> To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

template <class Vector> Vector load(const void* at) {
    Vector x;
    std::memcpy(&x, at, sizeof x);
    return x;
}

template <class Vector> void store(void* at, Vector x) { std::memcpy(at, &x, sizeof x); }

inline Words lane_numbers() {
    Words lane;
    for (int32_t i = 0; i < LANES; i++) lane[i] = i;
    return lane;
}

#ifdef BF16
typedef uint16_t Element;
constexpr long PER_WORD = 2;
Floats dot(Floats sum, int32_t a, Words b) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
__m512i widened(Floats x) { return _mm512_cvtepu16_epi32(bits<__m256i>(_mm512_cvtneps_pbh((__m512)x))); }
Floats load_row(const Element* at) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(at)), 16); }
void store_row(Element* at, Floats x) { store(at, _mm512_cvtneps_pbh((__m512)x)); }
__m512i narrowed(Floats x, Floats y) { return bits<__m512i>(_mm512_cvtne2ps_pbh((__m512)y, (__m512)x)); }
void store_two(int32_t* at, Floats x, Floats y) { store(at, narrowed(x, y)); }
// Two vectors of each of two rows, as rows and as pairs of both.
void store_tile(int32_t* first, int32_t* second, int32_t* pairs, long, const Floats* x, const Floats* y) {
    const __m512i a = narrowed(x[0], x[1]), b = narrowed(y[0], y[1]), lane = (__m512i)lane_numbers();
    const __m512i low =
        _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));  // a[i], b[i]
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    store(first, a), store(second, b);
    store(pairs, _mm512_permutex2var_epi16(a, low, b)), store(pairs + LANES, _mm512_permutex2var_epi16(a, high, b));
}
void store_pairs(int32_t* at, long, Floats x, Floats y) {
    store(at, _mm512_or_si512(widened(x), _mm512_slli_epi32(widened(y), 16)));
}
#else
typedef float Element;
constexpr long PER_WORD = 1;
Floats dot(Floats sum, int32_t a, Words b) { return sum + bits<float>(a) * bits<Floats>(b); }
Floats load_row(const Element* at) { return load<Floats>(at); }
void store_row(Element* at, Floats x) { store(at, x); }
void store_two(int32_t* at, Floats x, Floats y) { store(at, x), store(at + LANES, y); }
void store_tile(int32_t* first, int32_t* second, int32_t* pairs, long stride, const Floats* x, const Floats* y) {
    store_two(first, x[0], x[1]), store_two(second, y[0], y[1]);
    store_two(pairs, x[0], x[1]), store_two(pairs + stride, y[0], y[1]);
}
void store_pairs(int32_t* at, long stride, Floats x, Floats y) { store(at, x), store(at + stride, y); }
#endif

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

// 2^x for x < 127 to 3e-7 of itself, 0 below 2^-126: 2^n 2^r with |r| <= 1/2, the latter by the polynomial of least
// relative error.
inline Floats power_of_two(Floats x) {
    const auto kept = x > -126.0f;
    x = kept ? x : Floats{};
    const Floats shifted = x + 12582912.0f;  // 1.5 * 2^23: the low bits are n
    const Floats r = x - (shifted - 12582912.0f);
    Floats y = Floats{} + 1.32764725e-3f;
    for (const float term : {9.67554096e-3f, 5.55071309e-2f, 2.40221202e-1f, 6.93146944e-1f, 1.0f}) y = y * r + term;
    const Words power = bits<Words>(y) + (bits<Words>(shifted) << 23);
    return bits<Floats>(kept ? power : Words{});
}

// Lane i of a and b as they lie one after the other, at mask[i].
inline Words chosen(Words a, Words b, Words mask) {
#ifdef __clang__
    Words y;
    for (long i = 0; i < LANES; i++) y[i] = mask[i] < LANES ? a[mask[i]] : b[mask[i] - LANES];
    return y;
#else
    return __builtin_shuffle(a, b, mask);
#endif
}

// The largest of the lanes, and their sum, in lane 0.
inline float largest(Floats x) {
    for (int32_t step = LANES / 2; step > 0; step /= 2) {
        const Floats y = bits<Floats>(chosen(bits<Words>(x), bits<Words>(x), lane_numbers() ^ step));
        x = x > y ? x : y;
    }
    return x[0];
}

inline float total(Floats x) {
    for (int32_t step = LANES / 2; step > 0; step /= 2)
        x += bits<Floats>(chosen(bits<Words>(x), bits<Words>(x), lane_numbers() ^ step));
    return x[0];
}

// The largest of a row of `n`, a multiple of LANES.
inline float largest_of(const float* row, long n) {
    Floats most = load<Floats>(row);
    for (long i = LANES; i < n; i += LANES) {
        const Floats x = load<Floats>(row + i);
        most = x > most ? x : most;
    }
    return largest(most);
}

template <int32_t STEP> inline void swap_lanes(Words (&x)[LANES]) {
    const Words lane = lane_numbers(), odd = (lane & STEP) != 0;
    const Words first = odd ? lane + LANES - STEP : lane, second = odd ? lane + LANES : lane + STEP;
    for (long i = 0; i < LANES; i += 2 * STEP)
        for (long j = i; j < i + STEP; j++) {
            const Words a = x[j], b = x[j + STEP];
            x[j] = chosen(a, b, first), x[j + STEP] = chosen(a, b, second);
        }
}

template <int32_t STEP = 1> inline void transpose(Words (&x)[LANES]) {
    swap_lanes<STEP>(x);
    if constexpr (2 * STEP < LANES) transpose<2 * STEP>(x);
}

// to[j][i] = from[i][j] of a dense matrix of words, rows of `to` being `stride` apart; `rows` is a multiple of LANES.
// Reads up to 15 words beyond it.
void transpose(const int32_t* from, long rows, long columns, int32_t* to, long stride) {
    for (long i = 0; i < rows; i += LANES)
        for (long j = 0; j < columns; j += LANES) {
            Words x[LANES];
            for (long r = 0; r < LANES; r++) x[r] = load<Words>(from + (i + r) * columns + j);
            transpose(x);
            for (long r = 0; r < LANES && j + r < columns; r++) store(to + (j + r) * stride + i, x[r]);
        }
}

template <long M, long N> inline __attribute__((always_inline)) void clear(Floats (&c)[M][N]) {
    for (long m = 0; m < M; m++)
        for (long n = 0; n < N; n++) c[m][n] = Floats{};
}

// c[m][n] += sum over `depth` words of A[m] . B[n]; strides in words.
template <long M, long N>
inline __attribute__((always_inline)) void multiply(Floats (&c)[M][N], const int32_t* a, long a_stride,
                                                    const int32_t* b, long b_stride, long depth) {
    for (long w = 0; w < depth; w++) {
        Words row[N];
        for (long n = 0; n < N; n++) row[n] = load<Words>(b + w * b_stride + n * LANES);
        for (long m = 0; m < M; m++)
            for (long n = 0; n < N; n++) c[m][n] = dot(c[m][n], a[m * a_stride + w], row[n]);
    }
}

// Of rows X[t] of `width` elements, `stride` apart, pairs [t words][k], of which those from `length` up to `padded` are
// zero; `width` is a multiple of LANES, `padded` even.
inline void pack_pairs(const Element* data, long stride, long length, long padded, long width, int32_t* to) {
    for (long t = 0; t < padded; t += 2)
        for (long k = 0; k < width; k += LANES) {
            const Floats first = t < length ? load_row(data + t * stride + k) : Floats{};
            const Floats second = t + 1 < length ? load_row(data + (t + 1) * stride + k) : Floats{};
            store_pairs(to + t / PER_WORD * width + k, width, first, second);
        }
}

// Memory that the next call uses again.
struct Buffer {
    int32_t* next;
    int32_t* words(long n) {
        int32_t* at = next;
        next += (n + LANES - 1) / LANES * LANES;
        return at;
    }
    float* floats(long n) { return reinterpret_cast<float*>(words(n)); }
};

Buffer buffer_of(long words) {
    static thread_local std::vector<int32_t> memory;
    if (long(memory.size()) < words + 32) memory.resize(words + 32);
    return {memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / 4};
}

}  // namespace

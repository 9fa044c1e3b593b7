// Vectors of one machine register, whichever that is, of fp32 and of words.
//
// A word is 32 bits along the dimension that a product reduces: one fp32, or where BF16 is defined two neighbouring
// bf16, which AVX512-BF16 and AMX multiply and add at once; see products.h. Sums are fp32.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef BF16
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr long LANES = 16;
#elif defined(__AVX2__)
constexpr long LANES = 8;
#else
constexpr long LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));

template <class To, class From>
To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

template <class Vector>
Vector load(const void* at) {
    Vector x;
    std::memcpy(&x, at, sizeof x);
    return x;
}

template <class Vector>
void store(void* at, Vector x) {
    std::memcpy(at, &x, sizeof x);
}

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
    const auto dropped = x <= -126.0f;  // so that what is not a number stays so
    x = dropped ? Floats{} : x;
    const Floats shifted = x + 12582912.0f;  // 1.5 * 2^23: the low bits are n
    const Floats r = x - (shifted - 12582912.0f);
    Floats y = Floats{} + 1.32764725e-3f;
    for (const float term : {9.67554096e-3f, 5.55071309e-2f, 2.40221202e-1f, 6.93146944e-1f, 1.0f}) y = y * r + term;
    const Words power = bits<Words>(y) + (bits<Words>(shifted) << 23);
    return bits<Floats>(dropped ? Words{} : power);
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

template <int32_t STEP>
inline void swap_lanes(Words (&x)[LANES]) {
    const Words lane = lane_numbers(), odd = (lane & STEP) != 0;
    const Words first = odd ? lane + LANES - STEP : lane, second = odd ? lane + LANES : lane + STEP;
    for (long i = 0; i < LANES; i += 2 * STEP)
        for (long j = i; j < i + STEP; j++) {
            const Words a = x[j], b = x[j + STEP];
            x[j] = chosen(a, b, first), x[j + STEP] = chosen(a, b, second);
        }
}

template <int32_t STEP = 1>
inline void transpose(Words (&x)[LANES]) {
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

// Memory that the next call uses again: the same requests in the same order get the same places. Copies of it go on
// from where it stands, so that what is called many times takes its places once.
class Buffer {
    size_t next_ = 0;

   public:
    int32_t* words(long n) {
        static thread_local std::vector<std::vector<int32_t>> places;
        if (next_ == places.size()) places.emplace_back();
        std::vector<int32_t>& place = places[next_++];
        if (long(place.size()) < n + 32) place.resize(n + 32);  // to align it, and for what is read beyond the end
        return place.data() + (64 - reinterpret_cast<uintptr_t>(place.data()) % 64) % 64 / 4;
    }
    float* floats(long n) { return reinterpret_cast<float*>(words(n)); }
    Element* elements(long n) { return reinterpret_cast<Element*>(words((n + PER_WORD - 1) / PER_WORD)); }
};

}  // namespace

// The residual stream, whose rows are dense, and RMSNorm of rows (Zhang & Sennrich 2019, arXiv 1910.07467): y = x ·
// scale · gain, scale = 1 / sqrt(mean x² + eps).
//
// A row is anything that gives a vector of LANES at [d], for d in multiples of LANES up to `width`.

#pragma once

#include "products.h"

namespace {

// Sum over d of f(d).
template <class Vector>
inline float over_width(long width, Vector f) {
    Floats sum = {};
    for (long d = 0; d < width; d += LANES) sum += f(d);
    return total(sum);
}

template <class Row>
inline float norm_scale(long width, float eps, Row x) {
    return 1 / std::sqrt(over_width(width, [&](long d) { return x(d) * x(d); }) / width + eps);
}

// Of `length` dense rows, and zeros up to `padded`.
inline void norm_rows(const Element* x, const float* gain, float eps, long length, long padded, long width,
                      Element* to) {
    for (long t = 0; t < length; t++, x += width) {
        const float scale = norm_scale(width, eps, [&](long d) { return load_row(x + d); });
        for (long d = 0; d < width; d += LANES)
            store_row(to + t * width + d, load_row(x + d) * scale * load<Floats>(gain + d));
    }
    std::memset(to + length * width, 0, sizeof(Element) * (padded - length) * width);
}

// Of `length` dense rows a copy, and zeros up to `padded`.
inline void copy_rows(const Element* x, long length, long padded, long width, Element* to) {
    std::memcpy(to, x, sizeof(Element) * length * width);
    std::memset(to + length * width, 0, sizeof(Element) * (padded - length) * width);
}

// to = x + A . B, dense rows of the residual stream, of which there are `length`; A has `padded`.
inline void residual_product(const Element* a, Right b, long depth, const Element* x, long length, long padded,
                             long columns, Element* to) {
    product(a, depth, b, depth, padded, columns, [&](long m, long column, auto& c) {
        for (long i = 0; i < height(c) && m + i < length; i++)
            for (long j = 0; j < width(c); j++) {
                const long at = (m + i) * columns + column + j * LANES;
                store_row(to + at, load_row(x + at) + c[i][j]);
            }
    });
}

// Of a row x and the gradient of y: emit(d, gradient of x); adds that of the gain. What is left of the pull across the
// unit vector, for its length changes nothing.
template <class Row, class Emit>
inline void norm_backward(Row x, const float* gain, const float* pull, float scale, long width, float* gain_pull,
                          Emit emit) {
    const auto unit = [&](long d) { return x(d) * scale; };
    const auto unit_pull = [&](long d) { return load<Floats>(pull + d) * load<Floats>(gain + d); };
    const float along = over_width(width, [&](long d) { return unit(d) * unit_pull(d); }) / width;
    for (long d = 0; d < width; d += LANES) {
        emit(d, (unit_pull(d) - unit(d) * along) * scale);
        store(gain_pull + d, load<Floats>(gain_pull + d) + load<Floats>(pull + d) * unit(d));
    }
}

// Of dense rows x, the residual stream: its gradient is that of what follows, dy, and what comes through the norm,
// `pull`.
inline void residual_backward(const Element* x, const Element* dy, const float* gain, const float* pull, float eps,
                              long length, long width, float* gain_pull, Element* dx) {
    for (long t = 0; t < length; t++) {
        const auto row = [&](long d) { return load_row(x + t * width + d); };
        norm_backward(
            row, gain, pull + t * width, norm_scale(width, eps, row), width, gain_pull,
            [&](long d, Floats through) { store_row(dx + t * width + d, load_row(dy + t * width + d) + through); });
    }
}

}  // namespace

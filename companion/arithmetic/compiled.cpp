// Of K stacked GPT-2s on a processor, what lies between the matrix products, each part in one pass over its tensors.
// Arithmetic is in float32; T is the type of what is read and written. A model's rows are worked through in one order,
// by one thread, so that its bits do not depend on who shares its stack. The formulas: operations.py, beside this file.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

using at::Tensor;
using std::optional;
using std::tuple;

namespace {

// bfloat16 as its bits: the upper half of a float32
inline float get(float x) { return x; }
inline float get(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }
inline void put(float& to, float x) { to = x; }
inline void put(uint16_t& to, float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  uint32_t nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // ties to even
  to = (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : uint16_t(nearest);  // not a number stays that
}

// e^x from -87 to 88, to 1e-7 of itself, without a call or a branch, so that compilers do 16 at once: 2^n times a
// polynomial of what remains (Cephes).
inline float power(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = ((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f;
  y = ((y * r + 1.6666665459e-1f) * r + 5.0000001201e-1f) * r * r + r + 1.0f;
  return y * std::bit_cast<float>(uint32_t(int32_t(n) + 127) << 23);
}

// Where entry i of a contiguous tensor is; nowhere without a tensor
template <class T> T* at(const Tensor& t, int64_t i = 0) { return static_cast<T*>(t.data_ptr()) + i; }
template <class T> T* at(const optional<Tensor>& t, int64_t i = 0) { return t ? at<T>(*t, i) : nullptr; }

// run(k, T()) for each model k of a stack of activations [K, ...]
template <class F> void each_model(const Tensor& stack, F run) {
  at::parallel_for(0, stack.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      stack.scalar_type() == at::kFloat ? run(k, float()) : run(k, uint16_t());
  });
}

// x [K, ...] -> GELU; with grad, its gradient
Tensor gelu(const Tensor& x, const optional<Tensor>& grad) {
  constexpr float c = 1.5957691216f, d = 0.0713548163f;  // 2 sqrt(2 / pi), and that times 0.044715
  Tensor out = at::empty_like(x);
  int64_t n = x.numel() / x.size(0);
  each_model(x, [&]<class T>(int64_t k, T) {
    const T *from = at<T>(x, k * n), *g = at<T>(grad, k * n);
    T* to = at<T>(out, k * n);
    auto gate = [](float v) { return 1 / (1 + power(-v * (c + d * v * v))); };
    auto slope = [&](float v) { return gate(v) * (1 + (1 - gate(v)) * v * (c + 3 * d * v * v)); };
    #pragma omp simd
    for (int64_t i = 0; i < (g ? 0 : n); ++i) put(to[i], get(from[i]) * gate(get(from[i])));
    #pragma omp simd
    for (int64_t i = 0; i < (g ? n : 0); ++i) put(to[i], get(g[i]) * slope(get(from[i])));
  });
  return out;
}

// Mean and 1 / deviation of a row of D
template <class T> void moments(const T* x, int64_t D, float& mean, float& inverse) {
  float square = mean = 0;
  #pragma omp simd reduction(+ : mean)
  for (int64_t i = 0; i < D; ++i) mean += get(x[i]);
  mean /= D;
  #pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < D; ++i) square += (get(x[i]) - mean) * (get(x[i]) - mean);
  inverse = 1 / std::sqrt(square / D + 1e-5f);
}

// x, delta [K, N, D], bits of that shape or none, weight, bias [K, D] -> x + dropped delta, and that normalised
tuple<Tensor, Tensor> add_norm(const Tensor& x, const Tensor& delta, const optional<Tensor>& bits, int64_t least, double scale,
                               const Tensor& weight, const Tensor& bias) {
  int64_t N = x.size(1), D = x.size(2);
  Tensor sum = at::empty_like(x), normed = at::empty_like(x);
  each_model(x, [&]<class T>(int64_t k, T) {
    const float *w = at<float>(weight, k * D), *b = at<float>(bias, k * D), by = scale;
    float mean, inverse;
    for (int64_t row = k * N * D; row < (k + 1) * N * D; row += D) {
      const T *from = at<T>(x, row), *more = at<T>(delta, row);
      const int16_t* drawn = at<int16_t>(bits, row);
      T *to = at<T>(sum, row), *out = at<T>(normed, row);
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) put(to[i], get(from[i]) + get(more[i]) * (drawn ? float(drawn[i] >= least) * by : 1));
      moments(to, D, mean, inverse);
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) put(out[i], (get(to[i]) - mean) * inverse * w[i] + b[i]);
    }
  });
  return {sum, normed};
}

// From the gradients of both, those of x, delta, weight and bias
tuple<Tensor, Tensor, Tensor, Tensor> add_norm_back(const Tensor& sum, const optional<Tensor>& bits, int64_t least, double scale,
                                                    const Tensor& weight, const Tensor& of_sum,
                                                    const Tensor& of_normed) {
  int64_t N = sum.size(1), D = sum.size(2);
  Tensor of_x = at::empty_like(sum), of_delta = bits ? at::empty_like(sum) : of_x;
  Tensor of_weight = at::zeros_like(weight), of_bias = at::zeros_like(weight);
  each_model(sum, [&]<class T>(int64_t k, T) {
    std::vector<float> held(2 * D);
    float *y = held.data(), *g = y + D, *gw = at<float>(of_weight, k * D), *gb = at<float>(of_bias, k * D);
    const float *w = at<float>(weight, k * D), by = scale;
    for (int64_t row = k * N * D; row < (k + 1) * N * D; row += D) {
      const T *x = at<T>(sum, row), *up = at<T>(of_normed, row), *beside = at<T>(of_sum, row);
      T *to = at<T>(of_x, row), *too = at<T>(of_delta, row);
      const int16_t* drawn = at<int16_t>(bits, row);
      float mean, inverse, first = 0, second = 0;
      moments(x, D, mean, inverse);
      #pragma omp simd reduction(+ : first, second)
      for (int64_t i = 0; i < D; ++i) {
        y[i] = (get(x[i]) - mean) * inverse;
        g[i] = get(up[i]) * w[i];
        gw[i] += get(up[i]) * y[i];
        gb[i] += get(up[i]);
        first += g[i];
        second += g[i] * y[i];
      }
      first /= D, second /= D;
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) put(to[i], g[i] = (g[i] - first - y[i] * second) * inverse + get(beside[i]));
      #pragma omp simd
      for (int64_t i = 0; i < (drawn ? D : 0); ++i) put(too[i], g[i] * (float(drawn[i] >= least) * by));
    }
  });
  return {of_x, of_delta, of_weight, of_bias};
}

// Causal attention at the last S of P positions: queries, keys and values in rows [K, B, P, 3 D], bits
// [K, B, S, P, H] or none -> the values mixed, [K, B, S, D]; with grad of that, the gradient of rows
Tensor attention(const Tensor& rows, int64_t S, int64_t H, const optional<Tensor>& bits, int64_t least, double scale,
                 const optional<Tensor>& grad) {
  int64_t B = rows.size(1), P = rows.size(2), D = rows.size(3) / 3;
  Tensor out = grad ? at::empty_like(rows) : at::empty({rows.size(0), B, S, D}, rows.options());
  auto model = [&]<class T>(int64_t k, T, auto d) {
    std::vector<float> held(6 * P * D + 2 * S * D + 3 * P);
    float *r = held.data(), *gr = r + 3 * P * D, *up = gr + 3 * P * D, *mixed = up + S * D;
    float *w = mixed + S * D, *kept = w + P, *part = kept + P, by = 1 / std::sqrt(float(D / H));
    for (int64_t b = k * B; b < (k + 1) * B; ++b) {
      const T *from = at<T>(rows, b * 3 * P * D), *g = at<T>(grad, b * S * D);
      const int16_t* drawn = at<int16_t>(bits, b * S * P * H);
      for (int64_t i = 0; i < 3 * P * D; ++i) r[i] = get(from[i]);
      for (int64_t i = 0; i < (g ? S * D : 0); ++i) up[i] = get(g[i]);
      std::fill(gr, gr + (g ? 3 * P * D : 0), 0.0f);
      std::fill(mixed, mixed + S * D, 0.0f);
      for (int64_t s = 0; s < S; ++s)
        for (int64_t h = 0; h < H; ++h) {
          int64_t seen = P - S + s + 1, own = (seen - 1) * 3 * D + h * d, to = s * D + h * d;
          float largest = -INFINITY, total = 0, mean = 0;
          for (int64_t p = 0; p < seen; ++p) {
            float score = 0, *key = r + p * 3 * D + D + h * d;
            #pragma omp simd reduction(+ : score)
            for (int64_t i = 0; i < d; ++i) score += r[own + i] * key[i];
            largest = std::max(largest, w[p] = score * by);
            kept[p] = drawn ? float(drawn[(s * P + p) * H + h] >= least) * float(scale) : 1;
          }
          for (int64_t p = 0; p < seen; ++p) total += w[p] = power(w[p] - largest);
          for (int64_t p = 0; p < seen; ++p) {
            float *value = r + p * 3 * D + 2 * D + h * d, *of_value = gr + p * 3 * D + 2 * D + h * d;
            float x = (w[p] /= total) * kept[p], dot = 0;
            if (!g) {
              #pragma omp simd
              for (int64_t i = 0; i < d; ++i) mixed[to + i] += x * value[i];
            } else {
              #pragma omp simd reduction(+ : dot)
              for (int64_t i = 0; i < d; ++i) of_value[i] += x * up[to + i], dot += up[to + i] * value[i];
              mean += w[p] * (part[p] = dot * kept[p]);
            }
          }
          for (int64_t p = 0; g && p < seen; ++p) {
            float x = w[p] * (part[p] - mean) * by, *key = r + p * 3 * D + D + h * d, *of_key = key - r + gr;
            #pragma omp simd
            for (int64_t i = 0; i < d; ++i) gr[own + i] += x * key[i], of_key[i] += x * r[own + i];
          }
        }
      T* to = at<T>(out, b * (g ? 3 * P : S) * D);
      const float* result = g ? gr : mixed;
      for (int64_t i = 0; i < (g ? 3 * P : S) * D; ++i) put(to[i], result[i]);
    }
  };
  each_model(rows, [&](int64_t k, auto type) {  // a head of 32 is known to the compiler
    D / H == 32 ? model(k, type, std::integral_constant<int64_t, 32>()) : model(k, type, D / H);
  });
  return out;
}

// Of logits [K, N, V] and targets [K, N]: the loss of every row. The logits become its gradient, softmax minus target.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets) {
  int64_t N = logits.size(1), V = logits.size(2);
  Tensor loss = at::empty({logits.size(0), N}, logits.options().dtype(at::kFloat));
  each_model(logits, [&]<class T>(int64_t k, T) {
    std::vector<float> held(V);
    float* e = held.data();
    for (int64_t row = k * N; row < (k + 1) * N; ++row) {
      T* x = at<T>(logits, row * V);
      int64_t target = at<int64_t>(targets)[row];
      TORCH_CHECK_INDEX(target >= 0 && target < V, "Target ", target, " is out of bounds.");
      float largest = -INFINITY, total = 0, wanted = get(x[target]);
      #pragma omp simd reduction(max : largest)
      for (int64_t i = 0; i < V; ++i) largest = std::max(largest, get(x[i]));
      #pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < V; ++i) total += e[i] = power(get(x[i]) - largest);
      #pragma omp simd
      for (int64_t i = 0; i < V; ++i) put(x[i], e[i] / total);
      put(x[target], e[target] / total - 1);
      at<float>(loss)[row] = std::log(total) + (largest - wanted);
    }
  });
  return loss;
}

}  // namespace

TORCH_LIBRARY(sicore_gpt2, m) {
  m.def("gelu", gelu);
  m.def("add_norm", add_norm);
  m.def("add_norm_back", add_norm_back);
  m.def("attention", attention);
  m.def("cross_entropy", cross_entropy);
}

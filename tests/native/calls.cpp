// Makes the calls that a file describes and writes their results, so that a core that was compiled
// for another processor can be compared with the one at hand, bit for bit; see ../test_aarch64.py.
// usage: calls INPUT OUTPUT
//
// Numbers of both files are little-endian, integers have 64 bits. A batch of the input has a
// Header, `ways` Ways, then lengths (batch), or offsets (batch + 1), or neither; the points, or the
// distance matrices; and a gradient of the deaths. Its results are, for each way, the finding, the
// deaths and the edges; then, from those of the first way, the gradient of the points, the linkage
// of each cloud that is whole, and the loss with its terms and derivatives.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/tuning.h"
#include "tsloss.h"

using namespace tsloss;

namespace {

enum Layout : int64_t { kWhole = 0, kPadded = 1, kRagged = 2 };

struct Header {
  int64_t dtype, metric;  // a negative metric: distance matrices
  int64_t layout, batch, points, dim, rows;
  int64_t ways;
};

// What csrc/cpu/tuning.h lets tests override, and the number of threads.
struct Way {
  int64_t path, sample_one_in, wave_one_in, coded, seed, threads;

  void take() const {
    overrides() = {};
    overrides().path = static_cast<Path>(path);
    overrides().sample_one_in = sample_one_in;
    overrides().wave_one_in = wave_one_in;
    overrides().coded = static_cast<int>(coded);
    overrides().seed = static_cast<uint64_t>(seed);
  }
};

// Relative, for entries of a distance matrix and their mirror images.
constexpr double kTolerance = 1e-9;
constexpr double kConnectivity = 0.75, kRedundancy = 0.25, kRho = 0.5;
constexpr int kThreads = 2;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "calls: %s\n", what);
  std::exit(2);
}

class Files {
 public:
  Files(const char* input, const char* output)
      : in_(std::fopen(input, "rb")), out_(std::fopen(output, "wb")) {
    if (!in_ || !out_) fail("a file cannot be opened");
  }
  ~Files() {
    std::fclose(in_);
    if (std::fclose(out_) != 0) fail("the results cannot be written");
  }

  bool ended() {
    const int next = std::fgetc(in_);
    if (next != EOF) std::ungetc(next, in_);
    return next == EOF;
  }
  template <class T>
  std::vector<T> read(int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    if (std::fread(values.data(), sizeof(T), values.size(), in_) != values.size()) {
      fail("the input ends within a batch");
    }
    return values;
  }
  template <class T>
  void write(const std::vector<T>& values) {
    if (std::fwrite(values.data(), sizeof(T), values.size(), out_) != values.size()) {
      fail("the results cannot be written");
    }
  }

 private:
  std::FILE* in_;
  std::FILE* out_;
};

template <class T>
void write_loss(const BatchShape& shape, const T* deaths, Files& files) {
  std::vector<T> values(3);
  const size_t bars = static_cast<size_t>(shape.batch * shape.bars());
  std::vector<T> grads[] = {std::vector<T>(bars), std::vector<T>(bars), std::vector<T>(bars)};
  const int64_t coincident =
      scale_free_loss(sizeof(T) == 8 ? Dtype::kFloat64 : Dtype::kFloat32, shape, deaths,
                      kConnectivity, kRedundancy, kRho, {&values[0], grads[0].data()},
                      {&values[1], grads[1].data()}, {&values[2], grads[2].data()});
  files.write(std::vector<int64_t>{coincident});
  files.write(values);
  for (const std::vector<T>& grad : grads) files.write(grad);
}

template <class T>
void run(const Header& h, Files& files) {
  const Dtype dtype = static_cast<Dtype>(h.dtype);
  const bool matrices = h.metric < 0;
  const Metric metric = static_cast<Metric>(h.metric);
  const std::vector<Way> ways = files.read<Way>(h.ways);
  BatchShape shape{h.batch, h.points, matrices ? 0 : h.dim};
  const std::vector<int64_t> sizes = files.read<int64_t>(h.layout == kPadded   ? h.batch
                                                         : h.layout == kRagged ? h.batch + 1
                                                                               : 0);
  std::vector<int64_t> bar_offsets;
  int64_t bars = shape.batch * shape.bars();
  if (h.layout == kPadded) shape.lengths = sizes.data();
  if (h.layout == kRagged) {
    bar_offsets = bar_offsets_of(h.batch, sizes.data(), h.rows);
    shape.offsets = sizes.data();
    shape.bar_offsets = bar_offsets.data();
    bars = bar_offsets.back();
  }
  const std::vector<T> values = files.read<T>(h.rows * h.dim);
  const std::vector<T> grad_deaths = files.read<T>(bars);

  std::vector<T> deaths;
  std::vector<int64_t> edges;
  for (const Way& way : ways) {
    way.take();
    std::vector<T> d(static_cast<size_t>(bars));
    std::vector<int64_t> e(static_cast<size_t>(2 * bars));
    const int threads = static_cast<int>(way.threads);
    const Finding f =
        matrices ? h0_from_distances(dtype, shape, values.data(), kTolerance, d.data(), e.data(),
                                     threads)
                 : h0_forward(dtype, metric, shape, values.data(), d.data(), e.data(), threads);
    files.write(std::vector<int64_t>{static_cast<int64_t>(f.problem), f.cloud, f.i, f.j});
    files.write(d);
    files.write(e);
    if (&way == &ways.front()) {
      deaths = d;
      edges = e;
    }
  }
  if (!matrices) {
    BatchShape room = shape;  // as the bindings call it: padding has edges of -1
    room.lengths = nullptr;
    std::vector<T> grad(values.size());
    h0_backward(dtype, metric, room, grad_deaths.data(), values.data(), deaths.data(), edges.data(),
                grad.data(), kThreads);
    files.write(grad);
  }
  if (h.layout == kWhole) {
    std::vector<int64_t> merges(static_cast<size_t>(3 * bars));
    single_linkage(h.batch, shape.bars() + 1, edges.data(), merges.data());
    files.write(merges);
  }
  if (h.layout != kRagged) write_loss<T>(shape, deaths.data(), files);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) fail("expected two arguments, INPUT and OUTPUT");
  Files files(argv[1], argv[2]);
  int64_t batches = 0;
  for (; !files.ended(); ++batches) {
    const Header header = files.read<Header>(1).front();
    static_cast<Dtype>(header.dtype) == Dtype::kFloat64 ? run<double>(header, files)
                                                        : run<float>(header, files);
  }
  std::printf("%lld batches\n", static_cast<long long>(batches));
  return 0;
}

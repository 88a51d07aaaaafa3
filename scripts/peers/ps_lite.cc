// One node of ps-lite: the scheduler, the server of one vector, or a worker that times
// push + pull. ps_lite.py compiles and starts it; DMLC_ROLE says which it is.
//
//   ps_lite BYTES SECONDS RATE
//
// A worker prints the seconds of every round trip as a JSON list.

#include <malloc.h>
#include <ps/ps.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kUpdates = 1;  // a pull with it asks how many updates there were

double Now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Only the one thread of the server's KVServer touches the vector.
class Parameters {
 public:
  Parameters(size_t size, float rate) : values_(size, 0), rate_(rate) {}

  void Answer(const ps::KVMeta& asked, const ps::KVPairs<float>& given,
              ps::KVServer<float>* server) {
    ps::KVPairs<float> reply;
    if (asked.push) {
      CHECK_EQ(given.vals.size(), values_.size());
      Update(given.vals.data());
    } else {
      reply.keys = given.keys;
      reply.vals = asked.cmd == kUpdates ? Copy(&updates_, 1)
                                         : Copy(values_.data(), values_.size());
    }
    server->Response(asked, reply);
  }

 private:
  void Update(const float* push) {
    const float rate = rate_;
    float* values = values_.data();
    const size_t size = values_.size();
    for (size_t i = 0; i < size; ++i) values[i] -= rate * push[i];
    ++updates_;
  }

  // A reply on its way must not change. SArray's CopyFrom would write it twice.
  static ps::SArray<float> Copy(const float* from, size_t size) {
    float* copy = new float[size];
    std::memcpy(copy, from, size * sizeof(float));
    return ps::SArray<float>(copy, size, true);
  }

  std::vector<float> values_;
  float rate_, updates_ = 0;
};

class Worker {
 public:
  explicit Worker(size_t size) : channel_(0, 0), push_(size, 1), pulled_(size, 0) {}

  // A server takes a worker's messages in order: the pull need not wait for the push.
  void RoundTrip() {
    channel_.ZPush(key_, push_);
    channel_.Wait(channel_.ZPull(key_, &pulled_));
  }

  std::vector<double> Loop(double seconds) {
    for (double until = Now() + 0.1 * seconds; Now() < until;) RoundTrip();
    std::vector<double> times;
    for (double begun = Now(), until = begun + seconds; begun < until; begun = Now()) {
      RoundTrip();
      times.push_back(Now() - begun);
    }
    return times;
  }

  // Once no worker pushes: every value is what that many updates make of zero.
  void Check(float rate) {
    ps::SArray<float> updates(1);
    channel_.Wait(channel_.ZPull(key_, &updates, nullptr, kUpdates));
    channel_.Wait(channel_.ZPull(key_, &pulled_));
    CHECK_GT(updates[0], 0);
    float wanted = 0;
    for (int i = 0; i < updates[0]; ++i) wanted -= rate;
    for (float value : pulled_) CHECK_EQ(value, wanted);
  }

 private:
  ps::KVWorker<float> channel_;
  ps::SArray<ps::Key> key_{7};  // a list of the one key
  ps::SArray<float> push_, pulled_;
};

std::vector<double> Work(size_t size, double seconds, float rate) {
  Worker worker(size);
  std::vector<double> times = worker.Loop(seconds);
  ps::Postoffice::Get()->Barrier(0, ps::kWorkerGroup);
  worker.Check(rate);
  return times;
}

void Print(const std::vector<double>& times) {
  const char* before = "[";
  for (double time : times) {
    std::printf("%s%.9f", before, time);
    before = ", ";
  }
  std::printf("]\n");
}

}  // namespace

int main(int, char** given) {
  // Freed vectors stay in the heap instead of costing page faults at every message.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  const size_t size = std::strtoull(given[1], nullptr, 10) / sizeof(float);
  const double seconds = std::atof(given[2]);
  const float rate = std::atof(given[3]);
  const std::string role = std::getenv("DMLC_ROLE");
  if (role == "server") {
    Parameters parameters(size, rate);
    ps::KVServer<float> server(0);
    server.set_request_handle([&](const auto&... request) {
      parameters.Answer(request...);
    });
    ps::Start(0);
    ps::Finalize(0, true);
  } else {
    ps::Start(0);
    std::vector<double> times;
    if (role == "worker") times = Work(size, seconds, rate);
    ps::Finalize(0, true);
    if (!times.empty()) Print(times);  // now that nobody waits for this node
  }
}

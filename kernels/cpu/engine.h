// A loaded network: runs slices on its threads.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "network.h"
#include "pool.h"

namespace crn {

class Engine {
 public:
  Engine(Checkpoint& checkpoint, const Ops& ops, bool bytes, int threads);
  const Network& network() const { return network_; }
  int threads() const { return pool_.threads(); }
  // As crn_score; the outputs but score may be null.
  void score(const float* hu, size_t n, float* score, float* probs, float* map, float* novelty);

 private:
  struct Workspace {
    Workspace(const Network& network, int slices);
    int slices;
    Pool::Memory caller, activations;
    float* tokens[4];
    float *statistics, *normalised, *votes;
  };
  std::unique_ptr<Workspace> borrow();
  void give_back(std::unique_ptr<Workspace> used);
  void run(Workspace& work, const float* hu, int n, float* score, float* probs, float* map,
           float* novelty);

  Network network_;
  Pool pool_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace crn

// To be loaded before all else by a process whose allocations are to fail: LD_PRELOAD.
#include "failing_new.h"

extern "C" {
// The k-th from now on, and all that follow if `all`; a negative k: none.
void fail_allocation(long k, int all) {
  failing::failures = 0;
  failing::from_then_on = all != 0;
  failing::left = k;
}

long failed_allocations() { return failing::failures; }
}

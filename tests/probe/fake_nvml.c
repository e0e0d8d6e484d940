/* Stand-ins for NVIDIA's two driver libraries: the calls that the probe makes, answered from
   variables that a test sets. One library serves as both. */
#include <string.h>

typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { unsigned pid; unsigned long long stamp; unsigned sm, mem, enc, dec; } use_t;

int cuda_status = 0, init_status = 0, list_status = 0, use_status = 0, mig_status = 3;
unsigned mig = 0, busy = 0, n_processes = 0, n_uses = 0;
unsigned long long used = 0, reasons = 0;
process_t processes[8];
use_t uses[8];
char asked_for[32];

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 70 + ordinal; return cuda_status; }
int cuDeviceGetPCIBusId(char *address, int length, int device) {
    strncpy(address, device == 71 ? "0000:65:00.0" : "0000:17:00.0", length);
    return 0;
}

int nvmlInit_v2(void) { return init_status; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **device) {
    strncpy(asked_for, address, sizeof asked_for - 1);
    *device = (void *)0x123456789abcULL; /* wider than an int: must come back whole */
    return 0;
}
static int known(void *device) { return device == (void *)0x123456789abcULL ? 0 : 2; }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) {
    *now = *pending = mig;
    return known(device) ? 2 : mig_status;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    rates[0] = busy;
    rates[1] = 5;
    return known(device);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *found) {
    *found = reasons;
    return known(device);
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    memory[0] = 1ULL << 34;
    memory[1] = (1ULL << 34) - used;
    memory[2] = used;
    return known(device);
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *found) {
    if (list_status) return list_status;
    if (*count < n_processes) return 7;
    memcpy(found, processes, n_processes * sizeof *found);
    *count = n_processes;
    return known(device);
}
int nvmlDeviceGetProcessUtilization(void *device, use_t *found, unsigned *count,
                                    unsigned long long since) {
    unsigned told = 0;
    if (use_status) return use_status;
    for (unsigned k = 0; k < n_uses && told < *count; k++)
        if (uses[k].stamp > since) found[told++] = uses[k];
    *count = told;
    return told ? known(device) : 6; /* NVML_ERROR_NOT_FOUND: nobody has run since */
}

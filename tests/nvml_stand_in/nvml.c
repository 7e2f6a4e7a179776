/* Stands in for libnvidia-ml.so.1: answers what a script says, where there is no GPU. The format stands in script.h.
 *
 * Like the real one it lists its devices when it is initialised, keeps that list until the last shutdown, and calls a
 * device lost that has gone since. Layouts and codes: nvml.h of CUDA 13.
 */
#include <stdint.h>

#include "script.h"

enum { TYPE_UNSIGNED_INT = 1, TYPE_SIGNED_INT = 5 };
enum { EVENT_XID = 8 };

struct memory { unsigned long long total, free, used; };
struct utilization { unsigned gpu, memory; };
struct process { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; };
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; };
struct margin { unsigned version; int temperature; };
struct field {
    uint32_t id, scope; int64_t timestamp, latency; unsigned type; int code;
    union { unsigned u; int i; unsigned long long whole; } value;
};
struct event { struct device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
struct event_set { int num_seen; char registered[MAX_DEVICES]; };

static struct device devices[MAX_DEVICES];
static int num_devices;

/* ---- the session ---- */

int nvmlInitWithFlags(unsigned flags)
{
    char rest[MAX_LINE];
    int code = code_for("nvmlInitWithFlags", "all");
    (void)flags;
    if (code == SUCCESS && !getenv("HEADROOM_NVML_SCRIPT"))
        code = DRIVER_NOT_LOADED;
    if (code == SUCCESS && num_sessions++ == 0)
        for (num_devices = 0; num_devices < MAX_DEVICES && line_after("gpu ", num_devices, rest); num_devices++)
            sscanf(rest, "%95s", devices[num_devices].uuid);
    return code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    int code = enter("nvmlShutdown", NULL);
    if (code == SUCCESS)
        num_sessions--;
    return code;
}

const char *nvmlErrorString(int code)
{
    static char text[40];
    snprintf(text, sizeof text, "scripted error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
    snprintf(text, size, "stand-in");
    return enter("nvmlSystemGetDriverVersion", NULL);
}

/* ---- which devices there are ---- */

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)num_devices;
    return enter("nvmlDeviceGetCount_v2", NULL);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    if (index >= (unsigned)num_devices)
        return INVALID_ARGUMENT;
    *device = &devices[index];
    return enter("nvmlDeviceGetHandleByIndex_v2", *device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    for (int index = 0; index < num_devices; index++)
        if (strcmp(devices[index].uuid, uuid) == 0) {
            *device = &devices[index];
            return enter("nvmlDeviceGetHandleByUUID", *device);
        }
    return num_sessions ? NOT_FOUND : UNINITIALIZED;
}

int nvmlDeviceGetUUID(struct device *device, char *text, unsigned size)
{
    snprintf(text, size, "%s", device->uuid);
    return enter("nvmlDeviceGetUUID", device);
}

int nvmlDeviceGetName(struct device *device, char *text, unsigned size)
{
    char rest[MAX_LINE] = "";
    int code = enter("nvmlDeviceGetName", device);
    if (code == SUCCESS && fact("gpu", device, "", 0, rest))
        snprintf(text, size, "%s", strchr(rest, ' ') + 1);
    return code;
}

static void to_pci(const char *address, struct pci *pci)
{
    memset(pci, 0, sizeof *pci);
    sscanf(address, "%31s", pci->address);
    sscanf(address, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
}

int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci *pci)
{
    char rest[MAX_LINE] = "";
    int code = enter("nvmlDeviceGetPciInfo_v3", device);
    if (code == SUCCESS && fact("gpu", device, "", 0, rest))
        to_pci(rest, pci);
    return code;
}

/* ---- memory and who holds it ---- */

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    long long total = 0, used = 0;
    int code = answer("nvmlDeviceGetMemoryInfo", device, "total_bytes", &total);
    if (code == SUCCESS)
        code = value(device, "used_bytes", &used);
    *memory = (struct memory){.total = total, .free = total - used, .used = used};
    return code;
}

static int processes(const char *function, struct device *device, unsigned *size, struct process *found)
{
    char rest[MAX_LINE];
    unsigned count = 0;
    int code = enter(function, device);
    for (; code == SUCCESS && fact("process", device, "", (int)count, rest); count++)
        if (found && count < *size) {
            char *bytes;
            found[count] = (struct process){.pid = (unsigned)strtoul(rest, &bytes, 10)};
            found[count].bytes = (unsigned long long)strtoll(bytes, NULL, 10);
        }
    if (code == SUCCESS && count > *size)
        code = INSUFFICIENT_SIZE;
    *size = count;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *size, struct process *found)
{
    return processes("nvmlDeviceGetComputeRunningProcesses_v3", device, size, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *device, unsigned *size, struct process *found)
{
    (void)found;
    *size = 0;
    return enter("nvmlDeviceGetGraphicsRunningProcesses_v3", device);
}

/* ---- one number each ---- */

#define GETTER(FUNCTION, KEY, TYPE)                                                                                    \
    int FUNCTION(struct device *device, TYPE *out)                                                                     \
    {                                                                                                                  \
        long long number = 0;                                                                                          \
        int code = answer(#FUNCTION, device, KEY, &number);                                                            \
        *out = (TYPE)number;                                                                                           \
        return code;                                                                                                   \
    }

GETTER(nvmlDeviceGetPowerUsage, "power_mw", unsigned)
GETTER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw", unsigned)
GETTER(nvmlDeviceGetTotalEnergyConsumption, "energy_mj", unsigned long long)
GETTER(nvmlDeviceGetPcieReplayCounter, "pcie_replays", unsigned)
GETTER(nvmlDeviceGetCurrentClocksEventReasons, "clock_reasons", unsigned long long)

int nvmlDeviceGetTemperature(struct device *device, unsigned sensor, unsigned *celsius)
{
    long long number = 0;
    int code = answer("nvmlDeviceGetTemperature", device, "temperature_c", &number);
    (void)sensor;
    *celsius = (unsigned)number;
    return code;
}

int nvmlDeviceGetTemperatureThreshold(struct device *device, unsigned threshold, unsigned *celsius)
{
    char key[32];
    long long number = 0;
    snprintf(key, sizeof key, "threshold_%u", threshold);
    int code = answer("nvmlDeviceGetTemperatureThreshold", device, key, &number);
    *celsius = (unsigned)number;
    return code;
}

int nvmlDeviceGetMarginTemperature(struct device *device, struct margin *margin)
{
    long long number = 0;
    int code = answer("nvmlDeviceGetMarginTemperature", device, "margin_c", &number);
    margin->temperature = (int)number;
    return code;
}

int nvmlDeviceGetUtilizationRates(struct device *device, struct utilization *rates)
{
    long long number = 0;
    int code = answer("nvmlDeviceGetUtilizationRates", device, "utilization_percent", &number);
    *rates = (struct utilization){.gpu = (unsigned)number};
    return code;
}

int nvmlDeviceGetTotalEccErrors(struct device *device, unsigned type, unsigned counter, unsigned long long *count)
{
    char key[32];
    long long number = 0;
    snprintf(key, sizeof key, "ecc_%u_%u", type, counter);
    int code = answer("nvmlDeviceGetTotalEccErrors", device, key, &number);
    *count = (unsigned long long)number;
    return code;
}

int nvmlDeviceGetRemappedRows(struct device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed)
{
    long long is_pending = 0, is_failed = 0;
    int code = answer("nvmlDeviceGetRemappedRows", device, "row_remap_pending", &is_pending);
    if (code == SUCCESS)
        code = value(device, "row_remap_failed", &is_failed);
    *corrected = *uncorrected = 0;
    *pending = (unsigned)is_pending;
    *failed = (unsigned)is_failed;
    return code;
}

int nvmlDeviceGetFieldValues(struct device *device, int count, struct field *fields)
{
    int code = enter("nvmlDeviceGetFieldValues", device);
    for (int index = 0; code == SUCCESS && index < count; index++) {
        struct field *field = &fields[index];
        char key[32];
        long long number = 0;
        snprintf(key, sizeof key, "field_%u", field->id);
        field->code = value(device, key, &number);
        field->type = number < 0 ? TYPE_SIGNED_INT : TYPE_UNSIGNED_INT;
        field->value.whole = 0;
        field->value.i = (int)number;
    }
    return code;
}

/* ---- NVLink ---- */

static int link_line(const char *function, struct device *device, unsigned number, char rest[MAX_LINE])
{
    char middle[16];
    int code = enter(function, device);
    snprintf(middle, sizeof middle, "%u", number);
    if (code != SUCCESS || fact("link", device, middle, 0, rest))
        return code;
    return fact("link", device, "", 0, rest) ? INVALID_ARGUMENT : NOT_SUPPORTED;
}

int nvmlDeviceGetNvLinkState(struct device *device, unsigned number, unsigned *active)
{
    char rest[MAX_LINE];
    int code = link_line("nvmlDeviceGetNvLinkState", device, number, rest);
    *active = code == SUCCESS && atoi(rest);
    return code;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *device, unsigned number, struct pci *pci)
{
    char rest[MAX_LINE];
    int code = link_line("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, number, rest);
    if (code == SUCCESS)
        to_pci(strchr(rest, ' ') + 1, pci);
    return code;
}

/* ---- events ---- */

int nvmlEventSetCreate(struct event_set **set)
{
    char rest[MAX_LINE];
    int code = enter("nvmlEventSetCreate", NULL);
    *set = code ? NULL : calloc(1, sizeof **set);
    while (code == SUCCESS && line_after("xid ", (*set)->num_seen, rest))
        (*set)->num_seen++;
    return code;
}

int nvmlDeviceRegisterEvents(struct device *device, unsigned long long types, struct event_set *set)
{
    int code = enter("nvmlDeviceRegisterEvents", device);
    if (code == SUCCESS && types & EVENT_XID)
        set->registered[device - devices] = 1;
    return code;
}

int nvmlEventSetWait_v2(struct event_set *set, struct event *event, unsigned timeout_ms)
{
    char rest[MAX_LINE], uuid[MAX_UUID];
    unsigned long long xid;
    int code = enter("nvmlEventSetWait_v2", NULL);
    (void)timeout_ms; /* only ever asked not to wait */
    while (code == SUCCESS && line_after("xid ", set->num_seen, rest)) {
        set->num_seen++;
        sscanf(rest, "%95s %llu", uuid, &xid);
        for (int index = 0; index < num_devices; index++)
            if (set->registered[index] && strcmp(devices[index].uuid, uuid) == 0) {
                *event = (struct event){.device = &devices[index], .type = EVENT_XID, .data = xid};
                return SUCCESS;
            }
    }
    return code ? code : TIMEOUT;
}

int nvmlEventSetFree(struct event_set *set)
{
    free(set);
    return SUCCESS;
}

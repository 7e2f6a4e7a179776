/* The script of the stand-in: facts about devices, and what fails or hangs.
 *
 * The script is the file named by HEADROOM_NVML_SCRIPT, read again at every call. One fact a line:
 *
 *   gpu UUID ADDRESS PRODUCT      in the order of NVML's indices
 *   value UUID KEY NUMBER         what one getter answers; without its line the getter is "not supported"
 *   process UUID PID BYTES        -1 bytes: the driver withholds the figure
 *   link UUID NUMBER STATE ADDRESS
 *   xid UUID NUMBER               events in their order; only ever append
 *   fail FUNCTION WHOM CODE       WHOM is a UUID, or `all`
 *   hang FUNCTION WHOM on         does not return for as long as the line is there
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_DEVICES = 64, MAX_LINE = 256, MAX_UUID = 96 };
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15
};

struct device { char uuid[MAX_UUID]; };

static int num_sessions;

/* What follows `prefix` on the nth line that begins with it; 0 when there is none. */
static int line_after(const char *prefix, int nth, char rest[MAX_LINE])
{
    const char *path = getenv("HEADROOM_NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[MAX_LINE];
    int found = 0;
    if (!file)
        return 0;
    while (!found && fgets(line, sizeof line, file))
        if (strncmp(line, prefix, strlen(prefix)) == 0 && nth-- == 0) {
            line[strcspn(line, "\n")] = 0;
            strcpy(rest, line + strlen(prefix));
            found = 1;
        }
    fclose(file);
    return found;
}

/* The same for `word UUID `, with a middle word where there is one. */
static int fact(const char *word, const struct device *device, const char *middle, int nth, char rest[MAX_LINE])
{
    char prefix[MAX_LINE];
    snprintf(prefix, sizeof prefix, "%s %s %s%s", word, device->uuid, middle, *middle ? " " : "");
    return line_after(prefix, nth, rest);
}

static int scripted(const char *word, const char *function, const char *whom, char rest[MAX_LINE])
{
    char prefix[MAX_LINE];
    snprintf(prefix, sizeof prefix, "%s %s %s ", word, function, whom);
    return line_after(prefix, 0, rest);
}

static int code_for(const char *function, const char *whom)
{
    char rest[MAX_LINE];
    struct timespec moment = {.tv_nsec = 5000000};
    while (scripted("hang", function, whom, rest))
        nanosleep(&moment, NULL);
    return scripted("fail", function, whom, rest) ? atoi(rest) : SUCCESS;
}

/* Every call passes here first. `device` is NULL where the call is about none. */
static int enter(const char *function, const struct device *device)
{
    char rest[MAX_LINE];
    int code = code_for(function, "all");
    if (code == SUCCESS && device)
        code = code_for(function, device->uuid);
    if (code == SUCCESS && num_sessions == 0)
        code = UNINITIALIZED;
    if (code == SUCCESS && device && !fact("gpu", device, "", 0, rest))
        code = GPU_IS_LOST;
    return code;
}

static int value(const struct device *device, const char *key, long long *number)
{
    char rest[MAX_LINE];
    if (!fact("value", device, key, 0, rest))
        return NOT_SUPPORTED;
    *number = strtoll(rest, NULL, 10);
    return SUCCESS;
}

static int answer(const char *function, const struct device *device, const char *key, long long *number)
{
    int code = enter(function, device);
    return code ? code : value(device, key, number);
}

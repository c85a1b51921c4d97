/* Stands before fsync and fdatasync (LD_PRELOAD). The file named by TOLLGATE_SHIM says what happens from now on:
   "ok", "eio" (every call fails), "slow N" (every call takes N ms longer). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int spoil(void) {
    const char *path = getenv("TOLLGATE_SHIM");
    char text[64] = {0};
    if (!path) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got > 0 && strncmp(text, "eio", 3) == 0) {
        errno = EIO;
        return -1;
    }
    if (got > 5 && strncmp(text, "slow ", 5) == 0) {
        long ms = atol(text + 5);
        struct timespec pause = {ms / 1000, (ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
    return 0;
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return spoil() ? -1 : real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return spoil() ? -1 : real(fd);
}

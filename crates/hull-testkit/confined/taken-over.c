/* Plays a QEMU that its guest has taken over: started in QEMU's place, it tries what its plan says and prints a verdict
 * per line: "NAME done", or "NAME refused ERRNO". Each attempt is made by a child, so that none changes the next.
 *
 * The plan is a file that begins with "PLAN": one of the descriptors given to QEMU as disks (-add-fd fd=N,...), or,
 * outside of any confinement, what --plan names. Nothing here harms who runs it with every right: calls that would
 * change the host get arguments they must refuse, with another errno than a filter's. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOWHERE "/nonexistent/x"
#define BAD ((void *)1)

static char scratch[4096];
static char **arguments;

static void verdict(const char *name, int error) {
    if (error)
        printf("%s refused %s\n", name, strerrorname_np(error));
    else
        printf("%s done\n", name);
    fflush(stdout);
}

/* Runs an attempt in a child; it returns an errno, 0 for done. */
#define ATTEMPT(name, expression)                                  \
    do {                                                           \
        fflush(stdout);                                            \
        pid_t child_ = fork();                                     \
        int status_ = 0;                                           \
        if (child_ == 0) {                                         \
            setsid();                                              \
            errno = 0;                                             \
            _exit((expression) < 0 ? errno : 0);                   \
        }                                                          \
        if (child_ < 0)                                            \
            verdict(name, errno);                                  \
        else if (waitpid(child_, &status_, 0) == child_ && WIFEXITED(status_)) \
            verdict(name, WEXITSTATUS(status_));                   \
        else                                                       \
            printf("%s killed\n", name);                           \
    } while (0)

static int read_file(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    char some[8192]; /* the kernel's log gives whole records only */
    return file < 0 ? -1 : (int)read(file, some, sizeof some);
}

static int write_file(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return -1;
    unlink(path);
    return 0;
}

static int connect_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t length = strlen(path);
    if (socket_ < 0)
        return -1;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') /* an abstract name */
        address.sun_path[0] = 0;
    return connect(socket_, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + length);
}

static int connect_tcp(const char *namespace, const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (strcmp(namespace, "-") != 0) {
        int file = open(namespace, O_RDONLY | O_CLOEXEC);
        if (file < 0 || setns(file, CLONE_NEWNET) < 0)
            return -1;
    }
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, host, &address.sin_addr);
    alarm(10); /* an address that does not answer is not reached */
    return socket_ < 0 ? -1 : connect(socket_, (struct sockaddr *)&address, sizeof address);
}

/* Any process but itself and its parent (the program's first process). */
static int see_others(void) {
    for (int pid = 1; pid < 1 << 16; pid++)
        if (pid != getpid() && pid != getppid() && (kill(pid, 0) == 0 || errno != ESRCH))
            return 0;
    errno = ESRCH;
    return -1;
}

/* Becomes another program, whose words are nobody's. */
static int run(char *path) {
    char *line[] = {path, NULL}, *nothing[] = {NULL};
    int nobody = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(nobody, 0);
    dup2(nobody, 1);
    return execve(path, line, nothing);
}

/* Descriptors that neither its own input and output nor its command line account for. */
static int stray_descriptors(void) {
    for (int fd = 3; fd < 4096; fd++) {
        char mention[32];
        int meant = 0;
        if (fcntl(fd, F_GETFD) < 0)
            continue;
        snprintf(mention, sizeof mention, "fd=%d,", fd);
        for (char **argument = arguments; *argument; argument++)
            meant |= strstr(*argument, mention) != NULL;
        if (!meant)
            return 0;
    }
    errno = EBADF;
    return -1;
}

static int run_realtime(void) {
    struct sched_param first = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &first);
}

static long clone_into(unsigned long namespace) {
    long child = syscall(SYS_clone, namespace | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    return child;
}

static struct iovec here = {scratch, 1};
static struct timex clock_reading;
static struct perf_event_attr counter = {.type = PERF_TYPE_SOFTWARE, .size = sizeof counter};

#define CALL(name, ...) ATTEMPT("call:" #name, syscall(SYS_##name, __VA_ARGS__))
#define CLONE(name) ATTEMPT("call:clone:" #name, clone_into(name))
#define SOCKET(name) ATTEMPT("call:socket:" #name, socket(name, name == AF_ALG ? SOCK_SEQPACKET : SOCK_DGRAM, 0))

static void forbidden_calls(void) {
    CALL(ptrace, 0 /* PTRACE_TRACEME */, 0, 0, 0);
    CALL(process_vm_readv, getpid(), &here, 1, &here, 1, 0);
    CALL(process_vm_writev, getpid(), &here, 1, &here, 1, 0);
    CALL(process_madvise, -1, &here, 1, 0, 0);
    CALL(pidfd_getfd, -1, 0, 0);
    CALL(kcmp, getpid(), getpid(), 1, 0, 0);
    CALL(move_pages, 0, 0, 0, 0, 0, 0);
    CALL(migrate_pages, 0, 0, 0, 0);
    CALL(add_key, "user", "hull-test", "x", 1, -2 /* the process's keyring */);
    CALL(request_key, "user", "hull-test-none", 0, 0);
    CALL(keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -2, 1);
    CALL(unshare, CLONE_NEWUSER);
    CALL(setns, -1, 0);
    CALL(mount, "none", NOWHERE, "tmpfs", 0, 0);
    CALL(umount2, NOWHERE, 0);
    CALL(pivot_root, NOWHERE, NOWHERE);
    CALL(chroot, "/");
    CALL(open_tree, AT_FDCWD, "/", 0);
    CALL(move_mount, -1, NOWHERE, -1, NOWHERE, 0);
    CALL(fsopen, "tmpfs", 0);
    CALL(fsconfig, -1, 0, 0, 0, 0);
    CALL(fsmount, -1, 0, 0);
    CALL(fspick, AT_FDCWD, NOWHERE, 0);
    CALL(mount_setattr, -1, NOWHERE, 0, 0, 0);
    CALL(name_to_handle_at, AT_FDCWD, NOWHERE, scratch, scratch + 512, 0);
    CALL(open_by_handle_at, -1, scratch, 0);
    CALL(fanotify_init, 0, 0);
    CALL(fanotify_mark, -1, 1, 1, AT_FDCWD, NOWHERE);
    CALL(bpf, 0 /* BPF_MAP_CREATE */, scratch, 64);
    CALL(perf_event_open, &counter, 0, -1, -1, 0);
    CALL(userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
    CALL(init_module, 0, 0, "");
    CALL(finit_module, -1, "", 0);
    CALL(delete_module, "hull_test_none", O_NONBLOCK);
    CALL(kexec_load, 0, 0, 0, ~0UL);
    CALL(kexec_file_load, -1, -1, 0, "", ~0UL);
    CALL(syslog, 10 /* the buffer's size */, 0, 0);
    CALL(lookup_dcookie, 0, 0, 0);
    CALL(modify_ldt, 0, scratch, 0);
    CALL(iopl, 0);
    CALL(ioperm, 0x80, 1, 0);
    CALL(reboot, 0, 0, 0, 0);
    CALL(swapon, NOWHERE, 0);
    CALL(swapoff, NOWHERE);
    CALL(acct, NOWHERE);
    CALL(quotactl, 0x80000700 /* Q_GETINFO */, NOWHERE, 0, scratch);
    CALL(quotactl_fd, -1, 0x80000700, 0, scratch);
    CALL(sethostname, BAD, -1);
    CALL(setdomainname, BAD, -1);
    CALL(settimeofday, BAD, 0);
    CALL(clock_settime, CLOCK_REALTIME, BAD);
    CALL(clock_adjtime, CLOCK_REALTIME, &clock_reading);
    CALL(adjtimex, &clock_reading);
    CALL(vhangup, 0);
    CALL(mknod, NOWHERE, 0600 | 0060000, 0);
    CALL(mknodat, AT_FDCWD, NOWHERE, 0600 | 0060000, 0);
    CALL(uselib, NOWHERE);
    CALL(_sysctl, 0);
    CALL(nfsservctl, 0, 0, 0);
    ATTEMPT("call:ioctl:TIOCSTI", syscall(SYS_ioctl, -1, 0x5412, scratch));
    CLONE(CLONE_NEWNS);
    CLONE(CLONE_NEWCGROUP);
    CLONE(CLONE_NEWUTS);
    CLONE(CLONE_NEWIPC);
    CLONE(CLONE_NEWUSER);
    CLONE(CLONE_NEWPID);
    CLONE(CLONE_NEWNET);
    SOCKET(AF_INET);
    SOCKET(AF_INET6);
    SOCKET(AF_NETLINK);
    SOCKET(AF_VSOCK);
    SOCKET(AF_ALG);
    CALL(clone3, 0, 0);
    CALL(io_uring_setup, 1, scratch + 1024);
    CALL(io_uring_enter, -1, 0, 0, 0, 0, 0);
    CALL(io_uring_register, -1, 0, 0, 0);
    ATTEMPT("call:setuid", setuid(0));
    ATTEMPT("call:setgid", setgid(0));
    ATTEMPT("call:setpriority", setpriority(PRIO_PROCESS, 0, -20));
    ATTEMPT("call:sched_setscheduler", run_realtime());
}

/* Processes until there may be no more; all of them, and this one, stay. */
static void bomb(void) {
    int count = 0;
    for (;; count++) {
        pid_t child = fork();
        if (child == 0) {
            setsid();
            for (;;)
                pause();
        }
        if (child < 0)
            break;
    }
    printf("bomb %d %s\n", count, strerrorname_np(errno));
    fflush(stdout);
    for (;;)
        pause();
}

/* Memory until the kernel ends this process. */
static void hog(void) {
    for (size_t chunk = 16 << 20;;) {
        char *memory = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            verdict("hog", errno);
            exit(0);
        }
        memset(memory, 1, chunk);
    }
}

/* Keeps processors busy, from sessions of their own. */
static void spin(int processes) {
    for (int each = 0; each < processes; each++)
        if (fork() == 0) {
            setsid();
            for (volatile unsigned turns = 0;; turns++)
                ;
        }
    printf("spin done\n");
    fflush(stdout);
    for (;;)
        pause();
}

static void attempt(char *line) {
    char *verb = strtok(line, " "), *name = strtok(NULL, " "), *one = strtok(NULL, " "), *two = strtok(NULL, " "),
         *three = strtok(NULL, " ");
    if (!verb || !strcmp(verb, "PLAN"))
        return;
    if (!strcmp(verb, "calls"))
        forbidden_calls();
    else if (!strcmp(verb, "bomb"))
        bomb();
    else if (!strcmp(verb, "hog"))
        hog();
    else if (!strcmp(verb, "spin"))
        spin(atoi(name));
    else if (!strcmp(verb, "read"))
        ATTEMPT(name, read_file(one));
    else if (!strcmp(verb, "write"))
        ATTEMPT(name, write_file(one));
    else if (!strcmp(verb, "connect"))
        ATTEMPT(name, connect_unix(one));
    else if (!strcmp(verb, "tcp"))
        ATTEMPT(name, connect_tcp(one, two, atoi(three)));
    else if (!strcmp(verb, "signal"))
        ATTEMPT(name, kill(atoi(one), 0));
    else if (!strcmp(verb, "schedule"))
        ATTEMPT(name, sched_getscheduler(atoi(one)));
    else if (!strcmp(verb, "pidfd"))
        ATTEMPT(name, syscall(SYS_pidfd_open, atoi(one), 0));
    else if (!strcmp(verb, "others"))
        ATTEMPT(name, see_others());
    else if (!strcmp(verb, "shm"))
        ATTEMPT(name, shmget(atoi(one), 1, 0));
    else if (!strcmp(verb, "run"))
        ATTEMPT(name, run(one));
    else if (!strcmp(verb, "stray"))
        ATTEMPT(name, stray_descriptors());
    else
        printf("%s unknown\n", verb);
}

static int plan_of(int count, char **values) {
    for (int index = 1; index + 1 < count; index++) {
        int fd = -1;
        if (!strcmp(values[index], "--plan"))
            return open(values[index + 1], O_RDONLY | O_CLOEXEC);
        if (!strcmp(values[index], "-add-fd") && sscanf(values[index + 1], "fd=%d,", &fd) == 1
            && pread(fd, scratch, 4, 0) == 4 && !memcmp(scratch, "PLAN", 4))
            return fd;
    }
    return -1;
}

int main(int count, char **values) {
    static char plan[1 << 16];
    arguments = values;
    if (count == 2 && !strcmp(values[1], "--version"))
        return puts("QEMU emulator version 7.2.22") < 0;
    ssize_t size = pread(plan_of(count, values), plan, sizeof plan - 1, 0);
    if (size <= 0)
        return puts("no plan") < 0 || 2;
    memset(scratch, 0, sizeof scratch);
    char *rest = NULL;
    for (char *line = strtok_r(plan, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        attempt(line);
    printf("over\n");
    return 0;
}

"""Ways out of the sandbox that must not work, each the body of a function ``attempt``.

One that returns or prints ``SECRET``, or returns something true, is out; an exception, a false
value or the end of the process is not. Given are ``libc``, ``os``, ``socket``, ``target`` (what is outside,
see ``Outside`` in test_sandbox_escapes), ``call`` (a system call by number) and ``NUMBERS``.
"""

from __future__ import annotations

import textwrap

PRELUDE = '''
import ctypes, json, os, platform, signal, socket, struct, sys
target = json.load(open("target.json"))
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {"add_key": 248, "bpf": 321, "keyctl": 250, "perf_event_open": 298, "pivot_root": 155,
               "userfaultfd": 323, "open_by_handle_at": 304, "kexec_load": 246, "init_module": 175,
               "clone": 56, "memfd_create": 319, "modify_ldt": 154, "request_key": 249, "shmget": 29},
    "aarch64": {"add_key": 217, "bpf": 280, "keyctl": 219, "perf_event_open": 241, "pivot_root": 41,
                "userfaultfd": 282, "open_by_handle_at": 265, "kexec_load": 104, "init_module": 105,
                "clone": 220, "memfd_create": 279, "modify_ldt": 0, "request_key": 218, "shmget": 194},
}[platform.machine()]

def call(number, *arguments):
    """Return the result of a system call, or raise what it failed with."""
    result = libc.syscall(NUMBERS.get(number, number), *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def done(result):
    """Return True for a libc function that returned 0."""
    return result == 0

def attempt():
'''

POSTLUDE = """
try:
    result = attempt()
except BaseException as error:
    print("held:", repr(error))
else:
    print("OUT" if result else "held", repr(result)[:200])
"""

ESCAPES = {
    "read a file outside": 'return open(target["secret"]).read()',
    "read through the root of process 1": 'return open("/proc/1/root" + target["secret"]).read()',
    "read through the directory of process 1": 'return open("/proc/1/cwd/../.." + target["secret"]).read()',
    "climb above the root": 'return open("/tmp/work/" + "../" * 40 + target["secret"][1:]).read()',
    "follow a link": 'os.symlink(target["secret"], "link"); return open("link").read()',
    "make a hard link": 'os.link(target["secret"], "hard"); return open("hard").read()',
    "write beside a file outside": 'open(target["directory"] + "/made", "w").write("x"); return True',
    "mount a file system": 'return done(libc.mount(b"none", b"/tmp/work", b"tmpfs", 0, None))',
    "mount the disk": """
        os.mkdir("disk")
        return any(done(libc.mount(disk, b"disk", b"ext4", 0, None)) for disk in (b"/dev/vda", b"/dev/sda1"))
    """,
    "make the system writable": 'return done(libc.mount(None, b"/", None, 32 | 4096, None))',
    "unmount what hides the rest": 'return any(done(libc.umount2(p, 2)) for p in (b"/", b"/proc"))',
    "new mount interface": 'return call(428, -100, b"/", 1) >= 0 or call(430, b"tmpfs", 0) >= 0',
    "new user namespace": "return done(libc.unshare(0x10000000))",
    "new mount namespace": "return done(libc.unshare(0x00020000))",
    "new network namespace by clone": """
        pid = call("clone", 0x40000000 | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return True
    """,
    "new user namespace by clone3": """
        arguments = struct.pack("8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
        if call(435, arguments, len(arguments)) == 0:
            os._exit(0)
        return True
    """,
    "enter another namespace": 'return done(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))',
    "change the root": 'os.mkdir("r"); os.chroot("r"); return True',
    "pivot the root": 'os.mkdir("r"); return done(call("pivot_root", b"r", b"r"))',
    "trace process 1": "return done(libc.ptrace(16, 1, 0, 0))",
    "trace a process of its own": """
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return done(libc.ptrace(16, pid, 0, 0))
    """,
    "write into process 1": 'os.open("/proc/1/mem", os.O_RDWR); return True',
    "read the environment of process 1": 'return open("/proc/1/environ").read()',
    "take a descriptor of process 1": "return call(438, os.pidfd_open(1), 1, 0) >= 0",
    "become root": "os.setuid(0); return True",
    "become root by a program": """
        import subprocess
        ran = subprocess.run(["/usr/bin/su", "-c", "id -u"], capture_output=True, text=True)
        return ran.returncode == 0 and ran.stdout.strip() == "0"
    """,
    "get capabilities back": """
        header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0xFFFFFFFF] * 6)
        return done(libc.capset(header, data))
    """,
    "connect to a server outside": 'return socket.create_connection(("127.0.0.1", target["port"]), 2)',
    "connect by IPv6": 'return socket.create_connection(("::1", target["port"]), 2)',
    "send a datagram away": """
        away = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return away.sendto(b"x", ("192.0.2.1", 53))
    """,
    "resolve a name": 'return socket.getaddrinfo("example.com", 80)',
    "connect to an abstract socket outside": """
        client = socket.socket(socket.AF_UNIX)
        client.connect("\\0" + target["abstract"])
        return True
    """,
    "connect to a socket file outside": """
        client = socket.socket(socket.AF_UNIX)
        client.connect(target["socket"])
        return True
    """,
    "talk to the hypervisor": "return socket.socket(40, socket.SOCK_STREAM)",
    "talk to the kernel by netlink": "return socket.socket(16, socket.SOCK_RAW, 0)",
    "capture packets": "return socket.socket(17, socket.SOCK_RAW, 0x0300)",
    "kernel cryptography sockets": "return socket.socket(38, socket.SOCK_SEQPACKET)",
    "raw internet packets": "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "kill a process outside": 'os.kill(target["pid"], 9); return True',
    "restart the machine": 'open("/proc/sysrq-trigger", "w").write("b"); return True',
    "have the kernel run a program": """
        open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x")
        return True
    """,
    "write to sysfs": """
        return any(os.access(path, os.W_OK) for path in ("/sys", "/sys/fs/cgroup", "/sys/kernel"))
    """,
    "make a disk device": """
        os.mknod("disk", 0o600 | 0o060000, os.makedev(254, 0))
        return open("disk", "rb").read(9)
    """,
    "open memory and disks": """
        for path in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/kvm", "/proc/kcore"):
            if os.path.exists(path):
                return open(path, "rb").read(1)
    """,
    "type into the terminal": """
        import fcntl
        fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")
        return True
    """,
    "open a file by its handle": """
        handle = struct.pack("Ii", 8, 1) + struct.pack("Q", 2)
        return call("open_by_handle_at", -100, handle, 0) >= 0
    """,
    "io_uring": "return call(425, 8, bytes(120)) >= 0",
    "bpf": 'return call("bpf", 0, bytes(64), 64) >= 0',
    "keep a key in the kernel": 'return call("add_key", b"user", b"k", b"v", 1, -3) >= 0',
    "read the kernel's keys": 'return call("keyctl", 0, -3, 0) >= 0',
    "userfaultfd": 'return call("userfaultfd", 0) >= 0',
    "perf": 'return call("perf_event_open", bytes(128), 0, -1, -1, 0) >= 0',
    "personality": "return libc.personality(0x0040000) != -1",
    "load a kernel": 'return done(call("kexec_load", 0, 0, None, 0))',
    "load a module": 'return done(call("init_module", b"", 0, b""))',
    "shared memory that outlives it": 'return call("shmget", 1234, 4096, 0o1666) >= 0',
    "memory without a file or a limit": 'return call("memfd_create", b"x", 0) >= 0',
    "more processes than allowed": """
        import resource
        resource.setrlimit(resource.RLIMIT_NPROC, (100_000, 100_000))
        return True
    """,
    "change the limits of process 1": """
        import resource
        resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
        return True
    """,
    "starve process 1": "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)); return True",
    "stop process 1": """
        os.kill(1, signal.SIGSTOP)
        return open("/proc/1/stat").read().rpartition(")")[2].split()[0] == "T"
    """,
    "end process 1": """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV):
            os.kill(1, number)
        return not os.path.exists("/proc/1")
    """,
    "call as a 32-bit program": """
        import mmap
        if platform.machine() != "x86_64":
            return False
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0
    """,
    "call as an x32 program": "return call(0x40000000 + 39) > 0",
    "rename the machine": 'socket.sethostname("x"); return True',
    "replace the interpreter": 'open(os.path.realpath(sys.executable), "r+b"); return True',
    "leave a module for the next run": """
        open(os.path.dirname(os.__file__) + "/sitecustomize.py", "w")
        return True
    """,
    "change the code": 'open("/code.py", "w").write("x"); return True',
    "write to the root": 'open("/x", "w"); return True',
    "write to /dev": 'open("/dev/x", "w"); return True',
    "find an open descriptor": """
        usual = {"0", "1", "2"}
        left = set(os.listdir("/proc/self/fd")) - usual
        return [path for path in left if os.path.exists("/proc/self/fd/" + path)]
    """,
    "find secrets in the environment": "return any('SECRET' in word for word in os.environ.values())",
    "see processes outside": 'return [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 50]',
    "write to standard output's other end": 'os.open("/proc/1/fd/1", os.O_RDWR); return True',
}  # fmt: skip


def program(body: str) -> str:
    """Return the whole program for one attempt."""
    return PRELUDE + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n" + POSTLUDE

# Runs the suites in the virtual machine, on a root that looks like the host's, and switches it off.
# /run/guest/settings.sh says where things are, /run/guest/jobs.sh what is run.
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin HOME=/root
cd / || exit
. /run/guest/settings.sh

# Modules are loaded by the kernel as they are needed, by this name.
mkdir -p /run/guest/bin /lib/modules
ln -s "$BUSYBOX" /run/guest/bin/modprobe
echo /run/guest/bin/modprobe > /proc/sys/kernel/modprobe
mount -t tmpfs tmpfs /lib/modules
ln -s "$MODULES" /lib/modules/

mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /dev/net
# Its module is loaded when it is opened.
mknod /dev/net/tun c 10 200
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
# As a service manager has it.
ulimit -n 524288

for port in /sys/class/virtio-ports/*; do
    case $(cat "$port/name") in
        output) output=/dev/${port##*/} ;;
        status) status=/dev/${port##*/} ;;
    esac
done
exec > "$output" 2>&1 < /dev/null 3> "$status"
echo "up $(uname -r)" >&3

# Runs one suite: its name, its directory, its program.
suite() {
    echo
    echo "     Running $1 on Linux $(uname -r)"
    cd "$2" || exit
    shift 2
    "$@" 3>&-
    echo "exit $? $1" >&3
}
. /run/guest/jobs.sh
echo done >&3
echo o > /proc/sysrq-trigger
sleep 60

#!/bin/busybox sh
# The first program in the virtual machine: makes a root of the host's files, which are never written to, and goes there.
# It is alone with /bin/busybox, /modules, /order (their names in order), and what it hands on.
b=/bin/busybox
fail() {
    echo "fulcrum: $*" > /dev/console
    # Ends the machine at once.
    echo o > /proc/sysrq-trigger
    $b sleep 60
}
$b mkdir -p /proc /sys /dev /host /changes /new
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do
    $b insmod "/modules/$module" || fail "cannot load the module $module"
done < /order
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host || fail "cannot mount the host's files"
$b mount -t tmpfs -o size=50% tmpfs /changes
$b mkdir /changes/files /changes/work
$b mount -t overlay -o lowerdir=/host,upperdir=/changes/files,workdir=/changes/work overlay /new || fail "cannot mount the root"
for dir in proc sys dev; do
    $b mount -o move /$dir /new/$dir
done
$b mount -t tmpfs tmpfs /new/run
$b mkdir /new/run/guest
$b cp /guest.sh /settings.sh /jobs.sh /new/run/guest/
exec $b switch_root /new /bin/sh /run/guest/guest.sh

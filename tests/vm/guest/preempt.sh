#!/bin/sh
# preempt.sh CALLS: on a preemptible kernel, two pairs of processes at once, each with its own letter only. The programs
# that copy payload are the same with all back ends.
. /vm/lib.sh
calls=$1
o=/out/preempt
mkdir -p $o
echo full >/sys/kernel/debug/sched/preempt || die 'the kernel cannot become preemptible'
grep -qF '(full)' /sys/kernel/debug/sched/preempt || die "preemptible: $(cat /sys/kernel/debug/sched/preempt)"
ports='' servers='' clients=''
for letter in A B; do
	serve $letter letters listen 0 $letter $cert $key
	ports="$ports $port" servers="$servers $server"
done
start letters --all --backend fentry --ring-size 64
for letter in A B; do
	ports=${ports# }
	letters connect "${ports%% *}" $letter "$calls" >"$o/$letter/told" 2>"$o/$letter/err" &
	clients="$clients $!" ports=${ports#* }
done
for pid in $clients $servers; do wait "$pid" || die "letters: $?"; done
stop letters

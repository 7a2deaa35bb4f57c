#!/bin/sh
# preempt.sh CALLS BACKEND...: two pairs of processes at once, each with its own letter only.
. /vm/lib.sh
calls=$1
shift
for backend; do
	o=/out/$backend
	ports='' servers='' clients=''
	for letter in A B; do
		serve $letter letters listen 0 $letter $cert $key
		ports="$ports $port" servers="$servers $server"
	done
	start letters --all --backend "$backend" --ring-size 64
	for letter in A B; do
		ports=${ports# }
		letters connect "${ports%% *}" $letter "$calls" >"$o/$letter/told" 2>"$o/$letter/err" &
		clients="$clients $!" ports=${ports#* }
	done
	for pid in $clients $servers; do wait "$pid" || die "letters: $?"; done
	stop letters
done

#!/bin/sh
# What is captured as a command. Arguments: folder for what goes back, a file, and the servers' ports.
. /vm/lib.sh
o=$1 file=$2
long=$3 lengths=$4 seccomp=$5 killed=$6 stuck=$7 first=$8 second=$9 multipath=${10} bystander=${11}

# asleep PID: all its threads wait in the kernel.
asleep() { [ "$(cat "/proc/$1/task/"*/status | grep '^State' | grep -vc 'S (sleeping)')" = 0 ]; }
size() { [ "$(stat -c %s "$1")" = "$2" ]; }

say command begins
fetch --http1.1 https://127.0.0.1/page.html
fetch --http2 https://127.0.0.1$file
say the file has come
code "$bystander" >"$o/code.beside-command"
request /page.html close | /vm/openssl-1.1.1 s_client -quiet -ign_eof -CAfile $cert -connect 127.0.0.1:443 >/tmp/old.out 2>&1
port=$long; connect long w:3000000 r:10 w:10 S || die "long: $?"
port=$lengths; connect lengths w:1 x:16384 w:64512 x:64513 r:200000 w:1 S || die "lengths: $?"
port=$seccomp; connect seccomp w:100 r:100 q w:100 r:100 X || die "seccomp: $?"

say exchanges done
exchange connect 127.0.0.1 "$killed" --dir "$o/killed" w:10 r:100 >"$o/killed/told" &
await "50 bytes" size "$o/killed/client.0.received" 50
await "the read to block" asleep $!
kill -KILL $!
wait $!

say killed
# One library under two names.
port=$first; LD_LIBRARY_PATH=/same/one connect first w:30 r:30 S || die "first: $?"
port=$second; LD_LIBRARY_PATH=/same/two connect second w:40 r:40 S || die "second: $?"
port=$multipath; connect multipath --mptcp "$([ -e /proc/sys/net/mptcp/enabled ] && echo 1)" r:20 w:20 r:40000 S || die "multipath: $?"

# The last connection, since it ends with bytes of unknown number.
exchange connect 127.0.0.1 "$stuck" --dir "$o/stuck" w:10 r:10 w:9000000 >"$o/stuck/told" &
await "10 bytes" size "$o/stuck/client.0.received" 10
await "the write to block" asleep $!
kill -KILL $!
wait $!
say killed in a write

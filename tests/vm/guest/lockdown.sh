#!/bin/sh
# A kernel that lets nobody read the memory of programs, until it is booted again.
. /vm/lib.sh
o=/out
echo confidentiality >/sys/kernel/security/lockdown || die 'no lockdown'
try lockdown tls2pcap -o /tmp/x.pcapng -- true

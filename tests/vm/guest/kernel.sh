#!/bin/sh
# kernel.sh "BACKEND..." "LACKING..." "PART..."...: all that is done with one kernel, in one boot; the host judges. LACKING
# are the back ends that it does not have. A PART is a script of this folder and its arguments.
sh /vm/backends.sh "$1" || exit
# shellcheck disable=SC2086 # words
sh /vm/environments.sh $2 || exit
shift 2
for part; do
	# shellcheck disable=SC2086 # words
	sh /vm/$part || exit
done

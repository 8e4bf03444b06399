#!/bin/sh
# What follows the image's name is a command of `jaxpaged`; flags alone, or nothing, mean `serve`:
#   docker run IMAGE --model /models/x      serves
#   docker run IMAGE generate "Once"        runs `jaxpaged generate "Once"`
# The command replaces this shell, so it gets the signals of `docker stop` itself.
set -eu

case "${1-}" in
    -h | --help | -V | --version) exec jaxpaged "$@" ;;
    "" | -*) set -- serve "$@" ;;
esac

if [ "$1" = serve ]; then
    for word; do
        case "$word" in
            --host | --host=* | -h | --help) exec jaxpaged "$@" ;;
        esac
    done
    shift
    set -- serve --host 0.0.0.0 "$@" # a container's own loopback cannot be reached from outside
fi

exec jaxpaged "$@"

#!/usr/bin/env bash
# What bench/gpu.py needs on a machine without a network: wheels for Python 3.12 and MNIST, into FOLDER (45 MB).
#   bench/gpu_pack.sh FOLDER          here, with a network; MNIST from $NSGF_DATA (else ./data), as torchvision keeps it
#   source bench/gpu_pack.sh FOLDER unpack    there: installs the wheels beside Python's own packages and sets NSGF_DATA
folder=${1:?usage: bench/gpu_pack.sh FOLDER [unpack]}
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac

pack() {
    set -eu
    local data=${NSGF_DATA:-data} platforms=()
    for p in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do platforms+=(--platform "${p}_x86_64"); done
    mkdir -p "$folder/wheels"
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
        -d "$folder/wheels" POT geomloss flash-sinkhorn torch-fidelity
    tar -C "$data" -cJf "$folder/mnist.tar.xz" --exclude='*.gz' MNIST/raw
    du -sh "$folder"
}

unpack() {
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$folder/site" "$folder"/wheels/*.whl || return
    mkdir -p "$folder/data" && tar -C "$folder/data" -xJf "$folder/mnist.tar.xz" || return
    export PYTHONPATH="$PWD:$folder/site${PYTHONPATH:+:$PYTHONPATH}" NSGF_DATA="$folder/data"
}

if [ "${2:-}" = unpack ]; then unpack; else pack; fi

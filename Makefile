# Each target is a line or two; the program and .ci/ do the work.
export CARGO_TERM_PROGRESS_WHEN ?= never
MINIDC = target/release/minidc

.PHONY: demo demo-down build packages test bench bench-node bench-dns bench-leds bench-services image test-image deb deb-arm64 test-ansible fmt

demo: build            ## a rack of three virtual Pis that kubectl can use
	@$(MINIDC) rack up --nodes 3

demo-down:             ## remove the rack and everything it left
	@[ -x $(MINIDC) ] || $(MAKE) --no-print-directory build
	@$(MINIDC) rack down

build: packages
	@echo "building minidc (release)"
	@cargo build --release --locked -p minidc -q

packages:
	@.ci/packages

test: build            ## every test: unit, integration, and a real rack
	@.ci/packages tests
	cargo test --workspace --locked --doc -q
	cargo test --workspace --locked --lib --bins --tests --no-fail-fast

bench: build           ## the figures that README.md records
	cargo run --release --locked -p minidc-tests --bin bench

bench-node: build      ## memory of a board of 512 MiB, and its time to start
	cargo run --release --locked -p minidc-tests --bin bench-node

bench-dns:             ## DNS beside BIND and unbound
	@.ci/packages tests peers
	cargo run --release --locked -p minidc-tests --bin bench-dns

bench-leds:            ## what the lights cost
	cargo run --release --locked -p minidc-tests --bin bench-leds

bench-services:        ## Service rules beside those of kube-proxy
	@.ci/packages tests
	cargo run --release --locked -p minidc-tests --bin bench-services

image:                 ## the SD image, below target/image; as root. LOCK=refresh takes Debian's newest packages
	@image/build/build.sh

deb: build             ## the Debian package for machines like this one, below target/deb
	@image/deb/build $$(dpkg --print-architecture)

deb-arm64:             ## the same for Raspberry Pi OS and Debian on arm64
	@.ci/packages cross
	@image/deb/build arm64 "$$(image/build/cross.sh | tail -n 1)"

test-image: build image ## the image on emulated Pis, about half an hour; as root. TESTS=FILTER runs some of it
	@.ci/packages tests image qemu
	IMAGE="$$(ls -t target/image/minidc-*-arm64.img.zst | head -n 1)" cargo test --locked -p minidc-tests --test image -- $(TESTS)

test-ansible: build    ## the package and the playbook on three machines with systemd; as root, some minutes
	@.ci/packages ansible
	cargo test --locked -p minidc-tests --test ansible

fmt:
	cargo fmt --all

// The SBOM writer: a module of its own, so that the product does not carry
// SPDX's library.
module github.com/weir-dev/weir/hack/sbom

go 1.26.0

require github.com/spdx/tools-golang v0.5.7

require github.com/anchore/go-struct-converter v0.1.0 // indirect

// Pull fetches a Wasm module from a registry by the code of Istio's agent, and writes it to a file.
// Usage: pull HOST/PATH@DIGEST FILE
package main

import (
	"context"
	"fmt"
	"os"

	"istio.io/istio/pkg/wasm"
)

func main() {
	if err := pull(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func pull(image, file string) error {
	// Without a secret, as from a public registry; Insecure: by plain HTTP.
	fetcher := wasm.NewImageFetcher(context.Background(), wasm.ImageFetcherOption{Insecure: true})
	fetch, _, err := fetcher.PrepareFetch(image)
	if err != nil {
		return err
	}
	module, err := fetch()
	if err != nil {
		return err
	}
	return os.WriteFile(file, module, 0o644)
}

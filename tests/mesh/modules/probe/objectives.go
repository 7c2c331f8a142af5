package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// objective is what one service promises: milliseconds, and the share of requests that may fail.
type objective struct {
	Path     string
	Rate     float64
	P50, P99 float64
	Failures float64
}

// loadTest sends each service its load, one after another, and says which objective was kept. BASE is the URL in front of the
// paths, TOKENS bearer tokens that take turns, so that no user's limit is reached; VIA an address to connect to.
func loadTest(file string) (kept bool) {
	var table struct {
		About    string
		Seconds  float64
		Services map[string]objective
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &table)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return false
	}
	kept = true
	for _, name := range slices.Sorted(maps.Keys(table.Services)) {
		o := table.Services[name]
		all := order{URL: os.Getenv("BASE") + o.Path, Via: os.Getenv("VIA"), Seconds: table.Seconds, Rate: o.Rate,
			Concurrency: 8, Bearers: strings.Fields(os.Getenv("TOKENS"))}.run(nil)
		verdict := o.judge(all)
		kept = kept && strings.HasPrefix(verdict, "kept")
		fmt.Printf("%-22s %s\n", name, verdict)
	}
	return kept
}

func (o objective) judge(results []result) string {
	if len(results) == 0 {
		return "BROKEN: no request was sent"
	}
	failed := 0
	times := make([]float64, 0, len(results))
	for _, r := range results {
		times = append(times, r.Seconds*1000)
		if r.Status != 200 {
			failed++
		}
	}
	slices.Sort(times)
	p50, p99 := times[len(times)/2], times[len(times)*99/100]
	share := float64(failed) / float64(len(results))
	verdict := "kept  "
	if p50 > o.P50 || p99 > o.P99 || share > o.Failures {
		verdict = "BROKEN"
	}
	return fmt.Sprintf("%s %5d requests, %d failed, p50 %.1f ms (%.0f), p99 %.1f ms (%.0f)", verdict, len(results), failed, p50, o.P50, p99, o.P99)
}

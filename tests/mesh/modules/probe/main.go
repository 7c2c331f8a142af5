// Command probe stands in for each service of the platform: it answers, counts what it was asked, and calls others when told to.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The service answers on 8080; whoever runs the checks steers it on 9000, which the sidecar does not capture.
//
// "probe load FILE" tests instead whether each service keeps its objectives under load.
func main() {
	if len(os.Args) == 3 && os.Args[1] == "load" {
		if !loadTest(os.Args[2]) {
			os.Exit(1)
		}
		return
	}
	s := &service{pages: map[string]string{}, seen: map[string]int{}}
	control := http.NewServeMux()
	control.HandleFunc("/call", call)
	control.HandleFunc("/stop", stop)
	control.HandleFunc("/state", s.state)
	go func() { log.Fatal(http.ListenAndServe(":9000", control)) }()

	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: ":8080", Handler: s, Protocols: &protocols}
	log.Fatal(server.ListenAndServe())
}

type service struct {
	mu    sync.Mutex
	fault int               // status that every request gets, 0 for none
	delay time.Duration     // that every request waits
	pages map[string]string // path -> JSON text that is served there
	seen  map[string]int    // value of x-test-id -> requests that arrived
}

// ServeHTTP echoes the request. A caller asks for trouble by header: x-probe-status, x-probe-delay; for a request of this service's
// own, as part of the same trace: x-probe-next, a URL, with the token of x-probe-token: jwt-auth keeps the caller's to itself.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	s.seen[r.Header.Get("x-test-id")]++
	status, delay, page := s.fault, s.delay, s.pages[r.URL.Path]
	s.mu.Unlock()

	if asked, err := time.ParseDuration(r.Header.Get("x-probe-delay")); err == nil {
		delay = asked
	}
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	if asked, err := strconv.Atoi(r.Header.Get("x-probe-status")); err == nil {
		status = asked
	}
	if next := r.Header.Get("x-probe-next"); next != "" && status == 0 {
		status = forward(r, next)
	}
	if status == 0 {
		status = http.StatusOK
	}
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	if page != "" {
		_, _ = io.WriteString(w, page)
		return
	}
	host, _ := os.Hostname()
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service": os.Getenv("SERVICE"), "version": os.Getenv("VERSION"), "pod": host, "method": r.Method,
		"url": r.URL.String(), "authority": r.Host, "proto": r.Proto, "remote": r.RemoteAddr,
		"headers": r.Header, "body": string(body),
	})
}

// forward asks another service on behalf of a request, and returns its status.
func forward(r *http.Request, url string) int {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
	if err != nil {
		return http.StatusBadRequest
	}
	for _, name := range []string{"Traceparent", "Tracestate", "X-Request-Id"} {
		request.Header.Set(name, r.Header.Get(name))
	}
	request.Header.Set("Authorization", "Bearer "+r.Header.Get("x-probe-token"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return http.StatusBadGateway
	}
	defer response.Body.Close()
	return response.StatusCode
}

// state reports what was seen on GET; on PUT it sets the fault and the delay, and the pages that are given, and forgets what was seen.
func (s *service) state(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPut {
		var want struct {
			Fault int
			Delay string
			Pages map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.delay, _ = time.ParseDuration(want.Delay)
		s.fault, s.seen = want.Fault, map[string]int{}
		if want.Pages != nil {
			s.pages = want.Pages
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"fault": s.fault, "seen": s.seen})
}

// order is one kind of request and how often to send it.
type order struct {
	Method, URL, Body string
	Headers           map[string]string
	Count             int      // this many requests, 1 by default; with Seconds: no bound
	Seconds           float64  // send for this long instead
	Rate              float64  // requests a second over all workers; 0: as fast as they come
	Concurrency       int      // workers, 1 by default
	Fresh             bool     // a new connection for every request
	HTTP2             bool     // HTTP/2 with prior knowledge
	Via               string   // host:port to connect to instead of the URL's
	Tunnel            *tunnel  // a waypoint to go through
	Bearers           []string // tokens that take turns
	Name              string   // by which /stop ends it early
	Keep              string   // response header whose value each result shows
	Bodies            bool     // each result shows the body
}

type result struct {
	At      float64             `json:"at"` // when the request started, in seconds since 1970
	Worker  int                 `json:"worker"`
	Seconds float64             `json:"seconds"`
	Status  int                 `json:"status"` // 0: no response
	Error   string              `json:"error,omitempty"`
	Kept    string              `json:"kept,omitempty"`
	Headers map[string][]string `json:"headers,omitempty"`
	Body    string              `json:"body,omitempty"`
}

func call(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ended := make(chan struct{})
	if o.Name != "" {
		orders.Store(o.Name, ended)
		defer orders.Delete(o.Name)
	}
	_ = json.NewEncoder(w).Encode(o.run(ended))
}

// orders that run, by their name; closing the channel ends one.
var orders sync.Map

func stop(_ http.ResponseWriter, r *http.Request) {
	if ended, found := orders.LoadAndDelete(r.URL.Query().Get("name")); found {
		close(ended.(chan struct{}))
	}
}

func (o order) run(ended <-chan struct{}) []result {
	transport := &http.Transport{
		DisableKeepAlives:   o.Fresh,
		MaxIdleConnsPerHost: max(o.Concurrency, 1),
		// Whom a certificate names is for other checks to say.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if o.Via != "" {
				address = o.Via
			}
			if o.Tunnel != nil {
				return o.Tunnel.dial(ctx, address)
			}
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		},
	}
	if o.HTTP2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       180 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}

	begun := time.Now()
	tickets := make(chan int)
	go o.issue(begun, tickets, ended)
	var mu sync.Mutex
	var workers sync.WaitGroup
	results := []result{}
	for worker := range max(o.Concurrency, 1) {
		workers.Go(func() {
			for n := range tickets {
				one := o.send(client, n)
				one.Worker = worker
				mu.Lock()
				results = append(results, one)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return results
}

// issue hands out one ticket a request, until the count or the time is used up, or the order is ended.
func (o order) issue(begun time.Time, tickets chan<- int, ended <-chan struct{}) {
	defer close(tickets)
	for n := 0; ; n++ {
		if o.Seconds > 0 && time.Since(begun).Seconds() >= o.Seconds || o.Seconds == 0 && n >= max(o.Count, 1) {
			return
		}
		if o.Rate > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(float64(n) / o.Rate * float64(time.Second)))))
		}
		select {
		case tickets <- n:
		case <-ended:
			return
		}
	}
}

func (o order) send(client *http.Client, n int) (out result) {
	start := time.Now()
	out.At = float64(start.UnixMicro()) / 1e6
	defer func() { out.Seconds = time.Since(start).Seconds() }()
	method := o.Method
	if method == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequest(method, o.URL, nil)
	if err == nil && o.Body != "" {
		request, err = http.NewRequest(method, o.URL, strings.NewReader(o.Body))
	}
	if err != nil {
		out.Error = err.Error()
		return out
	}
	for name, value := range o.Headers {
		request.Header.Set(name, value)
		if http.CanonicalHeaderKey(name) == "Host" {
			request.Host = value
		}
	}
	if len(o.Bearers) > 0 {
		request.Header.Set("authorization", "Bearer "+o.Bearers[n%len(o.Bearers)])
	}
	response, err := client.Do(request)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Status = response.StatusCode
	out.Kept = response.Header.Get(o.Keep)
	if o.Bodies {
		out.Headers, out.Body = response.Header, string(body)
	}
	return out
}

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// tunnel is the way into a waypoint: HBONE, an HTTP/2 CONNECT over mutual TLS, as a node's proxy of an ambient mesh opens it.
type tunnel struct {
	Address          string // of the waypoint, host:port
	Certificate, Key string // the caller's identity, in PEM
}

func (t tunnel) dial(ctx context.Context, target string) (net.Conn, error) {
	identity, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{identity}, InsecureSkipVerify: true},
	}
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodConnect, "https://"+t.Address, reader)
	if err != nil {
		return nil, err
	}
	request.Host = target
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("CONNECT %s: %s", target, response.Status)
	}
	return &stream{response.Body, writer, transport}, nil
}

// stream is a tunnel that is open. The client's own timeout bounds each request, so that deadlines are not needed.
type stream struct {
	io.ReadCloser
	writer    *io.PipeWriter
	transport *http.Transport
}

func (s *stream) Write(data []byte) (int, error) { return s.writer.Write(data) }

func (s *stream) Close() error {
	s.writer.Close()
	err := s.ReadCloser.Close()
	s.transport.CloseIdleConnections()
	return err
}

func (s *stream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *stream) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

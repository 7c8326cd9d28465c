package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	// talkTime bounds the time until two ends reach each other: the first connection of a VF takes 7 s in this machine.
	talkTime = 20 * time.Second
	dialTime = time.Second
	// talkSize is the amount of data each way, in octets: many full segments.
	talkSize = 64 << 10
)

// Talk sends data from a netns to a server at addr in another, and wants all of it back. Path "" is the host's netns.
func Talk(t testing.TB, serverNS, clientNS, addr string) {
	t.Helper()
	if err := talk(serverNS, clientNS, addr, talkTime); err != nil {
		t.Errorf("TCP from %q to %s in %q: %v", clientNS, addr, serverNS, err)
	}
}

// CannotTalk fails the test if a TCP client in one netns reaches a server in another within the time.
func CannotTalk(t testing.TB, serverNS, clientNS, addr string, within time.Duration) {
	t.Helper()
	if err := talk(serverNS, clientNS, addr, within); err == nil {
		t.Errorf("TCP from %q to %s in %q succeeds", clientNS, addr, serverNS)
	}
}

func talk(serverNS, clientNS, addr string, within time.Duration) error {
	var l net.Listener
	err := inside(serverNS, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	go echo(l)
	for began := time.Now(); ; time.Sleep(pollInterval) {
		var c net.Conn
		err := inside(clientNS, func() (err error) {
			c, err = net.DialTimeout("tcp", addr, dialTime)
			return err
		})
		if err == nil {
			return exchange(c)
		}
		if time.Since(began) > within {
			return fmt.Errorf("not within %v: %w", within, err)
		}
	}
}

// inside runs f in a netns; "" is the host's. A socket stays in the netns where it was made.
func inside(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return nstest.In(path, f)
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) //nolint:errcheck,gosec // the client notices missing bytes
		}()
	}
}

func exchange(c net.Conn) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(talkTime)); err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("multi-eni"), talkSize/9)
	writing := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		writing <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(c, got)
	if err = errors.Join(err, <-writing); err != nil {
		return fmt.Errorf("exchange %d octets: %w", len(sent), err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d octets came back changed", len(sent))
	}
	return nil
}

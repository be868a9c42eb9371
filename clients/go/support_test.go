package toril_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"toril"
)

const patience = 20 * time.Second

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// within is a context that fails a test rather than let it hang.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// live is a client of the real toril that the environment names.
func live(t *testing.T) *toril.Client {
	t.Helper()
	url, token := os.Getenv("TORIL"), os.Getenv("TOKEN")
	if url == "" || token == "" {
		t.Skip("TORIL and TOKEN name no server to test against")
	}
	return toril.NewClient(url, token)
}

// queueName is one that nobody else uses.
func queueName() string {
	var name [6]byte
	rand.Read(name[:])
	return "go-" + hex.EncodeToString(name[:])
}

func newQueue[T, R any](t *testing.T) *toril.Queue[T, R] {
	t.Helper()
	return toril.NewQueue[T, R](live(t), queueName())
}

// fake is a client of a server that the test plays.
func fake(t *testing.T, serve http.HandlerFunc) *toril.Client {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return toril.NewClient(server.URL, "secret")
}

// working runs a worker until the test calls what is returned, which waits for its end.
func working(t *testing.T, worker *toril.Worker) func() {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	end := sync.OnceFunc(func() {
		stop()
		if err := receive(t, ended); err != nil {
			t.Errorf("the worker ended with %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

func receive[V any](t *testing.T, from <-chan V) V {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatal("waited in vain")
		panic("not reached")
	}
}

func must[V any](value V, err error) func(t *testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantCode(t *testing.T, err error, code string, status int) {
	t.Helper()
	var fault *toril.Error
	if !errors.As(err, &fault) || fault.Code != code || fault.Status != status {
		t.Fatalf("got %v, not an error with code %s and status %d", err, code, status)
	}
}

func equal[V comparable](t *testing.T, got, want V) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, not %v", got, want)
	}
}

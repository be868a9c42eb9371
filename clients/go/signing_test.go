package toril_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"toril"
)

// The vector that Standard Webhooks' own libraries are tested with.
const (
	secret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	message   = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	at        = "1614265330"
	signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	payload   = `{"test": 2432232314}`
)

var (
	other = "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("o", 24)))
	then  = time.Unix(1614265330, 0)
)

func signing(message, at, signature string) http.Header {
	header := http.Header{}
	header.Set("webhook-id", message)
	header.Set("webhook-timestamp", at)
	header.Set("webhook-signature", signature)
	return header
}

func TestThePublishedVectorIsVerified(t *testing.T) {
	for _, secrets := range [][]string{{secret}, {secret, other}, {other, secret}} {
		for _, apart := range []time.Duration{-5 * time.Minute, 0, 5 * time.Minute} {
			for _, given := range []string{signature, "v1,AAAA " + signature, signature + " v2,x"} {
				if err := toril.Verify(signing(message, at, given), payload, secrets, then.Add(apart)); err != nil {
					t.Errorf("%q with %q: %v", given, secrets, err)
				}
			}
		}
	}
}

func TestWhatIsNotSignedIsRefused(t *testing.T) {
	right := signing(message, at, signature)
	for _, one := range []struct {
		header http.Header
		body   string
		secret string
		apart  time.Duration
		fault  string
	}{
		{right, payload + " ", secret, 0, "wrong"},
		{right, payload, other, 0, "wrong"},
		{right, payload, secret, -301 * time.Second, "five minutes"},
		{right, payload, secret, 301 * time.Second, "five minutes"},
		{http.Header{}, payload, secret, 0, "not signed"},
		{signing("msg_other", at, signature), payload, secret, 0, "wrong"},
		{signing(message, "1614265331", signature), payload, secret, 0, "wrong"},
		{signing(message, "-1614265330", signature), payload, secret, 0, "not signed"},
		{signing(message, strings.Repeat("9", 50), signature), payload, secret, 0, "not signed"},
		{signing(message, at, ""), payload, secret, 0, "not signed"},
		{signing("", at, signature), payload, secret, 0, "not signed"},
		{signing(message, at, "v1,"), payload, secret, 0, "wrong"},
		{signing(message, at, signature[:len(signature)-1]), payload, secret, 0, "wrong"},
		{signing(message, at, signature[3:]), payload, secret, 0, "wrong"},
	} {
		err := toril.Verify(one.header, one.body, []string{one.secret}, then.Add(one.apart))
		wantCode(t, err, "unauthorized", 401)
		if !strings.Contains(err.Error(), one.fault) {
			t.Errorf("%v: got %v", one, err)
		}
	}
}

func TestWhatIsNoSecretIsNotTaken(t *testing.T) {
	queue := toril.NewQueue[number, any](toril.NewClient("http://127.0.0.1:9", "x"), "orders")
	for _, bad := range []string{"", "whsec_", secret[6:], "whsec_hunter2", "whsec_" + strings.Repeat("A", 28)} {
		_, err := queue.ReadPushed(httptest.NewRequest("POST", "/", strings.NewReader("{}")), secret, bad)
		if err == nil || !strings.Contains(err.Error(), "a secret is") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", bad, err)
		}
		func() {
			defer func() { equal(t, recover() != nil, true) }()
			queue.Handler(nil, bad)
		}()
	}
}

func TestSignedJobsAreWorkedOnAndOthersRefused(t *testing.T) {
	for _, signed := range []struct {
		secrets []string
		fine    bool
	}{{[]string{secret}, true}, {[]string{other, secret}, true}, {[]string{other}, false}, {nil, false}} {
		// A queue of its own: where a worker is registered anew, the one before may still get a job.
		queue, ctx := newQueue[number, square](t), within(t)
		endpoint := httptest.NewServer(queue.Handler(func(_ context.Context, task *toril.Task[number]) (square, error) {
			return square{task.Data.N * task.Data.N}, nil
		}, secret))
		defer endpoint.Close()
		defer queue.Unregister(ctx)
		err := queue.Register(ctx, toril.Endpoint{URL: endpoint.URL, Secrets: signed.secrets})
		if err != nil {
			t.Fatal(err)
		}
		job := must(queue.Add(ctx, "square", number{7}, nil))(t)
		result, err := queue.Wait(ctx, job.ID)
		var failure *toril.JobFailedError
		if signed.fine {
			equal(t, must(result, err)(t).Square, 49)
		} else if !errors.As(err, &failure) || failure.Reason != "Unauthorized" {
			t.Fatalf("signed with %q: %v", signed.secrets, err)
		}
	}
}

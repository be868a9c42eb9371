// A web handler that toril pushes the jobs of the queue orders to, on port 3000 until SIGTERM or Ctrl-C. With SECRET
// (whsec_…) the requests are signed, and others are refused.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"toril"
)

type Order struct {
	Amount int `json:"amount"`
}

type Receipt struct {
	Charged int `json:"charged"`
}

func charge(ctx context.Context, task *toril.Task[Order]) (Receipt, error) {
	err := errors.Join(
		task.Log(ctx, fmt.Sprintf("charging %d", task.Data.Amount)),
		task.Progress(ctx, 50),
	)
	return Receipt{Charged: task.Data.Amount}, err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client := toril.NewClient(os.Getenv("TORIL"), os.Getenv("TOKEN"))
	orders := toril.NewQueue[Order, Receipt](client, cmp.Or(os.Getenv("QUEUE"), "orders"))
	address := "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "3000")
	secrets := strings.Fields(os.Getenv("SECRET"))

	http.Handle("POST /charge", orders.Handler(charge, secrets...))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	endpoint := toril.Endpoint{URL: "http://" + address + "/charge", Concurrency: 10, Secrets: secrets}
	if err := orders.Register(ctx, endpoint); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	<-ctx.Done()
	server.Shutdown(context.Background()) // finishes the jobs at hand
}

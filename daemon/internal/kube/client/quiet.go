package client

import (
	"sync"

	"github.com/go-logr/logr/funcr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// quieten: klog's logger belongs to the process, and may be set only once.
var quieten sync.Once

// RedirectLog sends client-go's messages to log, at debug level. client-go repeats them at every attempt; our packages log a fault once.
func RedirectLog(log logrus.FieldLogger) {
	quieten.Do(func() {
		klog.SetLogger(funcr.New(func(name, text string) {
			log.WithFields(logrus.Fields{"logger": name, "text": text}).Debug("client-go")
		}, funcr.Options{}))
	})
}

# Thresholds of a contract on one report, in the manner of QoA4ML's OPA policies: the contract is
# data, the report is input, violations are a set.
package qualm.peer

default contract_violation = false

contract_violation {
    count(violation) > 0
}

violation[["service.response_time", "too slow"]] {
    input.metrics["service.response_time"] > data.contract.response_time.max
}

violation[["ml.confidence", "too unsure"]] {
    input.metrics["ml.confidence"] < data.contract.confidence.min
}

violation[["labels.device", "unknown device"]] {
    known := [device | device := data.contract.devices[_]; device == input.labels.device]
    count(known) == 0
}

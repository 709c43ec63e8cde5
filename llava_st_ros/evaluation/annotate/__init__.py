"""``llava-st eval annotate``: a local web page on which people annotate a bag.

``server`` serves the page (``page/``) and its requests on 127.0.0.1; ``recorded_camera`` the
frames; ``annotation_store`` the annotations, which it writes to the annotation file;
``page_values`` translates them between the package's records and the page's JSON.
"""
